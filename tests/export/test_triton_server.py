"""A repository served by the real Triton server, on the CPU, asked over HTTP and gRPC.

The server comes from the nvidia-pytriton package, in an environment of its own that is made once: 0.3 GB under
`~/.cache/zoo-tests/triton`, or where `ZOO_TRITON_ENV` says. It has no backend but the python one.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from zoo.export.options import ExportOptions
from zoo.export.pipeline import export_bundle
from zoo.export.to_triton import write_repository
from zoo.predictors.ort import OrtPredictor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or platform.machine() != "x86_64",
        reason="nvidia-pytriton holds a server for Linux on x86-64",
    ),
]

ENVIRONMENT = Path(os.environ.get("ZOO_TRITON_ENV") or Path.home() / ".cache" / "zoo-tests" / "triton")
SERVER = ("nvidia-pytriton==0.7.0",)  # of which only the server is used, not what it depends on
PACKAGES = ("numpy<2", "onnxruntime")  # of the server's Python
READY_SECONDS = 60


class Server(NamedTuple):
    """A running server and what it serves."""

    http: Any
    grpc: Any
    folder: Path
    """Of the model."""
    artifact: Path

    @property
    def model(self) -> str:
        """Return the model's name."""
        return self.folder.name


def site_packages() -> Path:
    """Return the packages of the server's environment, which is made if it is not there."""
    folder = Path(sysconfig.get_path("purelib", scheme="venv", vars={"base": str(ENVIRONMENT)}))
    done = folder / "zoo-tests.txt"
    if not done.is_file():
        venv.create(ENVIRONMENT, clear=True, with_pip=True, symlinks=True)
        pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        for packages in (("--no-deps", *SERVER), PACKAGES):
            made = subprocess.run([*pip, *packages], capture_output=True, text=True, check=False)
            if made.returncode != 0:
                pytest.skip(f"cannot install {' '.join(packages)}: {made.stderr.strip().splitlines()[-1]}")
        done.write_text("complete\n")
    return folder


def link_backend(packages: Path, folder: Path) -> Path:
    """Return a folder of backends with the parts of the python one, as the server wants them."""
    server = packages / "pytriton" / "tritonserver"
    python = folder / "backends" / "python"
    python.mkdir(parents=True)
    stub = server / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    if not stub.is_dir():
        pytest.skip(f"nvidia-pytriton has no python backend for Python {stub.name}")
    for path in (*(server / "backends" / "python").glob("*.*"), stub / "triton_python_backend_stub"):
        (python / path.name).symlink_to(path)
    return python.parent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def start(repository: Path, model: str, packages: Path, backends: Path, ports: tuple[int, int]) -> Any:
    command = [
        packages / "pytriton" / "tritonserver" / "bin" / "tritonserver",
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        f"--load-model={model}",
        f"--backend-directory={backends}",
        f"--http-port={ports[0]}",
        f"--grpc-port={ports[1]}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--allow-metrics=false",
    ]
    environment = {
        **os.environ,
        "PATH": f"{ENVIRONMENT / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(packages),
        "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR"),
    }
    log = (repository.parent / "server.log").open("w")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
