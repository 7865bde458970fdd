"""A server of stand-ins in processes of their own: `python stand_in_server.py SECONDS_OF_A_BATCH`.

It prints `ready`, its port, and the port of gRPC with `--grpc 1`.

The models of the workers come from this file, which each of them loads as its main module.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import ZooError
from zoo.serve.server.core import settings as server_settings
from zoo.serve.server.core.loading import ModelSource
from zoo.serve.server.core.settings import ServerSettings
from zoo.serve.server.processes.job import Job
from zoo.serve.server.processes.port import Port
from zoo.serve.server.processes.supervisor import Supervisor

if TYPE_CHECKING:
    from zoo.serve.server.core.model import Model

server_settings.LEAST_HANG_S = float(os.environ.get("LEAST_HANG_S", "10"))  # in each worker, too


def load(source: ModelSource, settings: ServerSettings) -> Model:
    """Return a stand-in; the path of the source is the number of seconds of a batch."""
    from zoo.serve.server.core.model import Model

    spec = importlib.util.spec_from_file_location("stand_in", Path(__file__).parents[1] / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Model(source.name, module.StandInPredictor((256, 256), base_s=float(source.path.name)), settings)


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", type=float)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--timeout", type=float, default=30)
    parser.add_argument("--grpc", type=int)
    arguments = parser.parse_args()
    settings = ServerSettings(queue=arguments.queue, timeout=arguments.timeout)
    job = Job((ModelSource("stand-in", Path(str(arguments.seconds))),), settings, load=load)
    port = Port("127.0.0.1", 0, arguments.workers)
    ports = [port.number]
    if arguments.grpc:
        for_grpc = Port("127.0.0.1", 0, bound_by_workers=True)
        job = job._replace(grpc=for_grpc.address)
        ports.append(for_grpc.number)
    supervisor = Supervisor(job, arguments.workers, port)
    try:
        supervisor.run(
            lambda _: sys.stdout.write(f"ready {' '.join(map(str, ports))}\n") and sys.stdout.flush()
        )
    except ZooError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
