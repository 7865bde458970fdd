"""A repository that the real Triton server serves on the CPU, asked over HTTP and gRPC.

The server is the one that ZOO_TRITON_SERVER names, such as /opt/tritonserver in NVIDIA's container, where its
Python needs numpy and onnxruntime. Without it, it is that of the nvidia-pytriton package, with the python
backend only, in an environment of its own, made once: `~/.cache/zoo-tests/triton`, or where ZOO_TRITON_ENV
says. Every wait has an end.
"""

from __future__ import annotations

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
from filelock import FileLock
from tritonclient.utils import InferenceServerException

from tests.bundles import calibrate_by
from zoo.bundle.reliability import Calibration
from zoo.export.options import ExportOptions
from zoo.export.pipeline import export_bundle
from zoo.export.triton.repository import write_repository
from zoo.predictors.runtimes.ort import OrtPredictor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Images = NDArray[np.uint8]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        (sys.platform, platform.machine()) != ("linux", "x86_64"),
        reason="nvidia-pytriton has its server for Linux on x86-64",
    ),
]

ENVIRONMENT = Path(os.environ.get("ZOO_TRITON_ENV") or Path.home() / ".cache" / "zoo-tests" / "triton")
PACKAGES = (("--no-deps", "nvidia-pytriton==0.7.0"), ("numpy<2", "onnxruntime"))
"""The server without the Python API around it, and what the model needs."""

INSTALL_SECONDS = 300
READY_SECONDS = 60
ASK_SECONDS = 30
LARGEST = 4
ROUNDS = 10
OUTPUTS = ("mask", "confidence", "reliability")
APIS: dict[str, Any] = {"http": tritonclient.http, "grpc": tritonclient.grpc}


class Installation(NamedTuple):
    """Files of a server, and its environment variables."""

    binary: Path
    backends: Path
    environment: dict[str, str]


class Served(NamedTuple):
    """A running server, and the file whose model it serves."""

    ports: dict[str, int]
    model: str
    onnx: Path

    def client(self, api: str) -> Any:
        """Return a client, for one thread."""
        return APIS[api].InferenceServerClient(f"127.0.0.1:{self.ports[api]}")

    def ask(self, api: str, images: Images) -> dict[str, NDArray[Any]]:
        """Return the outputs of a request, by name."""
        image = APIS[api].InferInput("image", images.shape, "UINT8")
        image.set_data_from_numpy(images)
        wanted = [APIS[api].InferRequestedOutput(name) for name in OUTPUTS]
        how = {"client_timeout": ASK_SECONDS} if api == "grpc" else {}  # of HTTP it is 60 s
        with self.client(api) as client:
            result = client.infer(self.model, [image], outputs=wanted, **how)
        return {name: result.as_numpy(name) for name in OUTPUTS}


@pytest.fixture(scope="module")
def served(student_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("triton")
    server_files = installation(folder)
    bundle = shutil.copytree(student_bundle, folder / "calibrated")
    calibration = Calibration(score="entropy", knots=((0.0, 0.2), (0.5, 0.6), (1.0, 1.0)))
    calibrate_by(bundle, calibration)
    options = ExportOptions(precision=("fp32",), output="+".join(OUTPUTS), out=folder / "shapes")
    report = export_bundle(bundle, options)
    repository = folder / "repository"
    _, python = write_repository(report, (1, 1, LARGEST), repository, lambda _: None)
    ports = dict(zip(APIS, free_ports(len(APIS)), strict=True))
    command = [
        str(server_files.binary),
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        f"--load-model={python.name}",
        f"--backend-directory={server_files.backends}",
        *(f"--{api}-port={port}" for api, port in ports.items()),
        *(f"--{api}-address=127.0.0.1" for api in ports),
        "--allow-metrics=false",
    ]
    log = folder / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, env=server_files.environment, stdout=output, stderr=output)
    try:
        served = Served(ports, python.name, folder / "shapes" / "model.onnx")
        wait_until_ready(server, served, log)
        yield served
    finally:
        server.terminate()
        try:
            server.wait(READY_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            raise


def installation(folder: Path) -> Installation:
    """Return the server to test; a folder takes what must be made for it."""
    if named := os.environ.get("ZOO_TRITON_SERVER"):
        return Installation(Path(named, "bin", "tritonserver"), Path(named, "backends"), dict(os.environ))
    ENVIRONMENT.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{ENVIRONMENT}.lock", timeout=INSTALL_SECONDS * len(PACKAGES)):
        packages = site_packages()
    binary = packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    return Installation(binary, link_backend(packages, folder), environment(packages))


def site_packages() -> Path:
    """Return the packages of the server's environment, which is made if it is not there."""
    packages = Path(sysconfig.get_path("purelib", scheme="venv", vars={"base": str(ENVIRONMENT)}))
    complete = packages / "zoo-tests.txt"
    if not complete.is_file():
        venv.create(ENVIRONMENT, clear=True, with_pip=True, symlinks=True)
        pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", "--retries=1"]
        for names in PACKAGES:
            try:
                result = subprocess.run(
                    [*pip, *names], capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS
                )
            except subprocess.TimeoutExpired:
                pytest.skip(f"cannot install {' '.join(names)} within {INSTALL_SECONDS} s")
            if result.returncode != 0:
                pytest.skip(f"cannot install {' '.join(names)}: {result.stderr.strip().splitlines()[-1]}")
        complete.touch()
    return packages


def link_backend(packages: Path, folder: Path) -> Path:
    """Return a folder of backends with the python one, whose parts the package keeps in two places."""
    server = packages / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    if not stub.is_dir():
        pytest.skip(f"nvidia-pytriton has no python backend for Python {stub.name}")
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    for path in (*(server / "backends" / "python").glob("*.*"), *stub.iterdir()):
        (backend / path.name).symlink_to(path)
    return backend.parent


def environment(packages: Path) -> dict[str, str]:
    """Return the environment variables of a server whose models run in its own Python."""
    path = f"{ENVIRONMENT / 'bin'}:{os.environ['PATH']}"
    libpython = sysconfig.get_config_var("LIBDIR")
    return {**os.environ, "PATH": path, "PYTHONPATH": str(packages), "LD_LIBRARY_PATH": libpython}


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_until_ready(server: subprocess.Popen[bytes], served: Served, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with served.client("http") as client:
                if client.is_model_ready(served.model):
                    return
        except OSError:  # nobody listens yet
            pass
        time.sleep(0.1)
    pytest.fail(f"the server is not ready: {log.read_text()[-2000:]}")


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("shape", [(1, 64, 64), (LARGEST, 64, 48), (3, 41, 77)])
def test_all_outputs_are_those_of_onnx_runtime(
    served: Served, photos: Any, api: str, shape: tuple[int, int, int]
) -> None:
    images = photos(shape[0], shape[1:])
    expected = OrtPredictor(served.onnx, threads=1).outputs(images)
    found = served.ask(api, images)
    assert len(np.unique(found["mask"])) > 1
    for name in OUTPUTS:
        assert found[name].dtype == np.uint8
        assert found[name].tolist() == expected[name].tolist()


def test_requests_at_once_are_joined_by_size_and_each_gets_its_own_mask(served: Served, photos: Any) -> None:
    requests = [image[None] for size in ((64, 64), (48, 64)) for image in photos(8, size)]
    predictor = OrtPredictor(served.onnx, threads=1)
    expected = [predictor.run(images).tolist() for images in requests]
    before = counts(served)
    for _ in range(ROUNDS):  # to be joined, requests must be there while the model is busy with others
        with ThreadPoolExecutor(len(requests)) as pool:
            found = pool.map(lambda images: served.ask("grpc", images)["mask"].tolist(), requests)
        assert list(found) == expected
        asked, run = (after - earlier for after, earlier in zip(counts(served), before, strict=True))
        if run < asked:
            return
    pytest.fail(f"{asked} requests were run one by one")


def counts(served: Served) -> tuple[int, int]:
    """Return how many requests were answered so far, and how often the model was run for them."""
    with served.client("grpc") as client:
        model = client.get_inference_statistics(served.model, client_timeout=ASK_SECONDS).model_stats[0]
    return model.inference_stats.success.count, model.execution_count


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((LARGEST + 1, 64, 64, 3), "batch-size must be <= 4"),
        ((1, 64, 64, 4), r"unexpected shape for input 'image'.*Expected \[-1,-1,-1,3\]"),
        ((1, 0, 64, 3), "expected at least one pixel"),
    ],
)
def test_images_that_cannot_be_are_refused_and_the_next_is_answered(
    served: Served, api: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message) as refused:
        served.ask(api, np.zeros(shape, np.uint8))
    assert refused.value.status() in {"400", "StatusCode.INVALID_ARGUMENT"}
    assert served.ask(api, np.zeros((1, 64, 64, 3), np.uint8))["mask"].shape == (1, 64, 64)


@pytest.mark.parametrize("api", APIS)
def test_the_server_tells_classes_and_sizes(served: Served, api: str) -> None:
    with served.client(api) as client:
        if api == "http":
            config, metadata = client.get_model_config(served.model), client.get_model_metadata(served.model)
        else:
            config = client.get_model_config(served.model, as_json=True, client_timeout=ASK_SECONDS)["config"]
            metadata = client.get_model_metadata(served.model, as_json=True, client_timeout=ASK_SECONDS)
    told = {key: value["string_value"] for key, value in config["parameters"].items()}
    assert told["classes"].startswith('["background", "disc"')
    assert (told["imgsz"], told["resize"]) == ("[64, 64]", "fit")
    assert [(output["name"], output["datatype"]) for output in metadata["outputs"]] == [
        (name, "UINT8") for name in OUTPUTS
    ]
