"""A machine of three that is lost under load, simulated on this one."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    WriteOnnx = Callable[..., Path]

PROGRAM = """
import json, sys, time
from pathlib import Path

import ray
from ray import serve
from ray.cluster_utils import Cluster as Nodes

sys.path.insert(0, sys.argv[3])
from conftest import ask_all_the_time
from zoo.serve.server.core.loading import ModelSource
from zoo.serve.server.processes.job import Job
from zoo.serve.server.ray.deploy import APP, application
from zoo.serve.server.ray.cluster import connected
from zoo.serve.server.ray.options import Cluster
from zoo.serve.server.core.settings import ServerSettings

PORT = 8722
nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0})
workers = [nodes.add_node(num_cpus=1) for _ in range(2)]
nodes.wait_for_nodes()
with connected() as is_ours:
    assert not is_ours
    options = {"host": "127.0.0.1", "port": PORT}
    serve.start(http_options=options, proxy_location="HeadOnly")  # nodes of one machine share its ports
    job = Job((ModelSource("threshold", Path(sys.argv[1]), "ort"),), ServerSettings())
    cluster = Cluster(min_replicas=2, max_replicas=2, cpus=0.6, port=PORT)
    # not `deploy`: a driver beside three nodes on one address gets no answers by handle
    serve.run(application(job, cluster), name=APP, route_prefix="/")
    with ask_all_the_time(f"http://127.0.0.1:{PORT}", Path(sys.argv[2]).read_bytes()) as load:
        load.wait_for(100)
        nodes.remove_node(workers[0], allow_graceful=False)
        load.wait_for(200, seconds=60)  # Ray takes some 20 s to notice
    serve.shutdown()
nodes.shutdown()
print(json.dumps({"asked": len(load.statuses), "failed": load.failed}))
"""
CLIENTS = 4


@pytest.mark.slow
def test_when_a_machine_is_lost_at_most_the_requests_in_flight_fail(
    write_onnx: WriteOnnx, tmp_path: Path
) -> None:
    """Run in a process of its own: a process connects to one cluster."""
    pytest.importorskip("ray")
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 200, 200)).save(buffer, "PNG")
    (tmp_path / "image.png").write_bytes(buffer.getvalue())
    model = write_onnx(tmp_path / "threshold.onnx")
    here = __file__.rpartition("/")[0]
    command = [sys.executable, "-c", PROGRAM, str(model), str(tmp_path / "image.png"), here]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["asked"] >= 300
    assert len(told["failed"]) <= CLIENTS, told
