"""A stand-in for a network on a GPU, and servers that run it."""

from __future__ import annotations

import io
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx2
import numpy as np
import pytest
import uvicorn
from PIL import Image

from zoo.classes import Classes
from zoo.predictors.base import Predictor
from zoo.preprocess import Preprocessing
from zoo.serve.server.core.model import About, Model
from zoo.serve.server.core.settings import ServerSettings
from zoo.serve.server.grpc.server import GrpcServer
from zoo.serve.server.http.app import create_app
from zoo.serve.server.processes.port import Port
from zoo.serve.server.processes.uvicorn_protocol import guarded_protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from fastapi import FastAPI
    from numpy.typing import NDArray

    from tests.conftest import PngFile
    from zoo.classes import Mask
    from zoo.predictors.runtimes.ort import OrtPredictor

    ServeApp = Callable[..., "Running"]

    StandIn = Callable[..., Predictor]


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 64, 48, 3), dtype=np.uint8)
"""(B, H, W, 3)"""


class StandInPredictor(Predictor):
    """A predictor that takes 6 ms + 0.5 ms for each image of a batch, hardly any of it on the CPU.

    A pixel is of class 1 where red is 128 or more. A pixel of (255, 0, 0) in the first corner makes it fail,
    one of (0, 255, 0) hang, one of (0, 0, 255) fail from then on, until `broken` is false again.

    Args:
        imgsz: height and width of the network's images.
        base_s: seconds of a batch.
        image_s: seconds of an image.
        resize: of the preprocessing.
    """

    backend = "stand-in"

    def __init__(
        self,
        imgsz: tuple[int, int] = (64, 64),
        *,
        base_s: float = 0.006,
        image_s: float = 0.0005,
        resize: str = "fit",
    ) -> None:
        preprocessing = Preprocessing.model_validate({"imgsz": imgsz, "resize": resize})
        super().__init__(Classes.of(("dark", "bright")), preprocessing)
        self.base_s, self.image_s = base_s, image_s
        self.shapes: list[tuple[int, ...]] = []
        """Of all batches."""
        self.broken = False

    def infer(self, images: NDArray[np.uint8], outputs: Sequence[str] = ("mask",)) -> dict[str, NDArray[Any]]:
        assert tuple(outputs) == ("mask",)
        end = time.perf_counter() + self.base_s + self.image_s * len(images)
        self.shapes.append(images.shape)
        if (images[:, 0, 0] == (0, 255, 0)).all(axis=1).any():
            threading.Event().wait()
        mask: Mask = images[..., 0] >> 7
        time.sleep(max(0.0, end - time.perf_counter()))
        self.broken |= bool((images[:, 0, 0] == (0, 0, 255)).all(axis=1).any())
        if self.broken:
            raise RuntimeError("nothing works any more")
        if (images[:, 0, 0] == (255, 0, 0)).all(axis=1).any():
            raise RuntimeError("a red corner in /srv/secret/model.onnx")
        return {"mask": mask}


class Pictures:
    """Images, and their files."""

    def __init__(self, png_file: PngFile) -> None:
        self.png = png_file

    def image(self, seed: int = 0) -> Image.Image:
        """Return an image of 32 x 48 in large blocks."""
        random = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        return Image.fromarray(np.kron(random, np.ones((8, 8, 1), np.uint8)))

    def file(self, image: Image.Image | None = None, format_: str = "PNG", **options: Any) -> bytes:
        file = io.BytesIO()
        (image or self.image()).save(file, format_, **options)
        return file.getvalue()


@pytest.fixture(scope="session")
def pictures(png_file: PngFile) -> Pictures:
    """Return a maker of images and of their files."""
    return Pictures(png_file)


@pytest.fixture
def stand_in() -> StandIn:
    """Return the class of the stand-in."""
    return StandInPredictor


class Running(NamedTuple):
    """A server on loopback, in a thread of this process."""

    app: FastAPI
    models: dict[str, Model]
    port: int
    client: httpx2.Client
    server: uvicorn.Server
    thread: threading.Thread
    grpc_port: int = 0
    """0 without gRPC."""

    def stop(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join(10)


class Served(NamedTuple):
    """A server, a client of Triton for it, and what its masks must be."""

    server: Running
    client: Any
    predictor: OrtPredictor


@pytest.fixture
def serve_app() -> Iterator[ServeApp]:
    """Return a function that serves predictors by name, a stand-in if there are none, with some settings.

    It takes `about` with the `About` of each model, `wrap` to put the app into another, and `grpc` to serve
    over gRPC, too.
    """
    running: list[Running] = []

    def start(
        predictors: dict[str, Predictor] | None = None,
        about: dict[str, About] | None = None,
        wrap: Callable[[FastAPI], FastAPI] = lambda app: app,
        grpc: bool = False,
        **changes: Any,
    ) -> Running:
        settings = ServerSettings(**changes)
        models = [
            Model(name, predictor, settings, (about or {}).get(name))
            for name, predictor in (predictors or {"stand-in": StandInPredictor(base_s=0, image_s=0)}).items()
        ]
        app = wrap(create_app(models, settings))
        running.append(run_app(app, models, settings, GrpcBeside if grpc else uvicorn.Server))
        return running[-1]

    yield start
    for each in running:
        each.stop()


class GrpcBeside(uvicorn.Server):
    """uvicorn with gRPC on the same models, as in a worker."""

    grpc: GrpcServer

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.grpc = GrpcServer(self.config.app.state.context, "127.0.0.1:0")  # type: ignore[union-attr]
        await self.grpc.start()
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self.grpc.stop(5)
        await super().shutdown(sockets)


def run_app(
    app: FastAPI,
    models: list[Model],
    settings: ServerSettings,
    kind: type[uvicorn.Server] = uvicorn.Server,
) -> Running:
    sock = Port("127.0.0.1", 0).open()
    config = uvicorn.Config(
        app, log_config=None, access_log=False, http=guarded_protocol(settings), server_header=False
    )
    server = kind(config)
    thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
    thread.start()
    until = time.monotonic() + 10
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < until
        time.sleep(0.005)
    port = sock.getsockname()[1]
    client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False)
    grpc_port = server.grpc.port if isinstance(server, GrpcBeside) else 0
    return Running(app, {model.name: model for model in models}, port, client, server, thread, grpc_port)
