"""Random sequences of sizes and of ways to ask, on a server over HTTP and gRPC: the right mask or one line.

The sequences are those of `tests/predictors/test_sequences.py`. Clients that have been cancelled hang up, and
errors are those of the backend and of requests without an image. `ZOO_SEQUENCES=5000 pytest -s FILE`, with
`-m slow` beside PyTorch, sets and shows the number of images a backend.
"""

from __future__ import annotations

import io
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import torch
from PIL import Image
from tritonclient.grpc import service_pb2 as pb

from tests.bundles import metadata_of
from tests.predictors.conftest import assert_same
from tests.predictors.test_sequences import WANTED, Call, check_patches, check_sequences
from zoo.bundle.bundle import load_config
from zoo.bundle.weights import load_bundle
from zoo.errors import InvalidImageError
from zoo.export.graph.fold import prepare
from zoo.export.graph.to_onnx import export_onnx
from zoo.predictors.eager import load_eager
from zoo.predictors.limits import Limits
from zoo.predictors.load import load_predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.serve.server.conftest import Running, ServeApp

    Images = NDArray[np.uint8]

INFER = "/inference.GRPCInferenceService/ModelInfer"
CLIENTS = 4


class Client:
    """Both protocols of a server with one model, `m`.

    Args:
        server: server of the model.
        predictor: its predictor, in the same process.
    """

    def __init__(self, server: Running, predictor: Any) -> None:
        self.server = server
        self.predictor = predictor
        self.channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
        self.infer = self.channel.unary_unary(INFER)

    @property
    def limits(self) -> Limits:
        """Return the sizes that the model takes."""
        limits: Limits = self.predictor.limits
        return limits

    def run(self, image: Images, number: int = 0) -> NDArray[Any]:
        """Return the mask of (1, H, W, 3), over HTTP or gRPC by turns.

        Raises:
            InvalidImageError: the server refused the image.
        """
        return self.by_http(image) if number % 2 else self.by_grpc(image)

    def by_http(self, image: Images) -> NDArray[Any]:
        answer = self.server.client.post("/predict", params={"format": "npy"}, content=file_of(image))
        if answer.status_code == 400:
            raise InvalidImageError(answer.json()["detail"])
        assert answer.status_code == 200, answer.text
        mask: NDArray[Any] = np.load(io.BytesIO(answer.content), allow_pickle=False)
        return mask[None]

    def by_grpc(self, image: Images) -> NDArray[Any]:
        try:
            answer = pb.ModelInferResponse.FromString(self.infer(message_of(image), timeout=30))
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                raise InvalidImageError(error.details()) from None
            raise
        mask = np.frombuffer(answer.raw_output_contents[0], np.uint8)
        return mask.reshape(tuple(answer.outputs[0].shape))

    def hang_up(self, image: Images, number: int) -> None:
        """Ask for a mask and do not wait for it."""
        if number % 4 == 0:
            self.infer.future(message_of(image), timeout=30).cancel()
            return
        body = file_of(image)
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", self.server.port), 10) as sock:
            sock.sendall(head + body[: len(body) // (1 + number % 3)])

    def fail(self) -> None:
        """Let the server meet no image, and its backend one that is too small, if there is any."""
        answer = self.server.client.post("/predict", content=b"no image")
        assert answer.status_code in (400, 415)
        runner = self.server.models["m"]._runner
        before = self.predictor._limits, runner.limits
        self.predictor._limits = runner.limits = Limits()
        try:
            answer = self.server.client.post("/predict", content=file_of(np.zeros((1, 1, 1, 3), np.uint8)))
            assert answer.status_code in (200, 400, 500), answer.text
        finally:
            self.predictor._limits, runner.limits = before


def file_of(image: Images) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, "PNG", compress_level=1)
    return file.getvalue()


def message_of(image: Images) -> bytes:
    tensor = {"name": "image", "datatype": "UINT8", "shape": image.shape}
    message = pb.ModelInferRequest(model_name="m", inputs=[tensor], raw_input_contents=[image.tobytes()])
    data: bytes = message.SerializeToString()
    return data


def results(client: Client, call: Call) -> list[tuple[Images, Any]]:
    """Return each image with its mask or error; clients that hang up have none."""

    def outcome(image: Images, number: int) -> Any:
        if call.how == "cancelled" and number % 2 == 0:
            client.hang_up(image, number)
            return None
        try:
            return client.run(image, number // 2 if call.how == "cancelled" else number)
        except InvalidImageError as error:
            return error

    if call.how == "after an exception":
        client.fail()
    images = call.images if call.how in ("alone", "after an exception") else call.images * 2
    with ThreadPoolExecutor(1 if images is call.images else CLIENTS) as pool:
        found = list(pool.map(outcome, images, range(len(images))))
    return [(image, each) for image, each in zip(images, found, strict=True) if each is not None]


@pytest.fixture(params=["ort", "openvino"])
def serve_file(
    request: pytest.FixtureRequest, serve_app: ServeApp
) -> Iterator[tuple[str, Callable[[Path], Client]]]:
    """Return the name of a backend, and a function that serves a file on it over both protocols."""
    name: str = request.param
    if name == "openvino":
        pytest.importorskip("openvino")
    clients: list[Client] = []

    def start(path: Path) -> Client:
        predictor = load_predictor(path, backend=name, threads=1)
        clients.append(Client(serve_app({"m": predictor}, grpc=True, max_batch=4), predictor))
        return clients[-1]

    yield name, start
    for client in clients:
        client.channel.close()


def check_ready(client: Client, counts: dict[str, int]) -> None:
    assert client.server.client.get("/readyz").status_code == 200
    assert set(counts) == {"images", "refused", "alone", "pool", "cancelled", "after an exception"}


def test_a_sequence_of_requests_returns_the_right_masks(
    serve_file: tuple[str, Callable[[Path], Client]],
    write_patches: Callable[..., Path],
    tmp_path: Path,
) -> None:
    name, start = serve_file
    wanted = int(os.environ.get("ZOO_SEQUENCES", "100"))
    client = start(write_patches(tmp_path / "model.onnx", resize="none"))
    counts = check_sequences(f"server, {name}", client, check_patches, wanted, results)
    check_ready(client, counts)


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "stride"), [("test_resnet", 8), ("convnext_atto", 16)])
def test_sequences_of_requests_return_the_masks_of_pytorch(
    serve_file: tuple[str, Callable[[Path], Client]],
    make_bundle: Callable[..., Path],
    encoder: str,
    stride: int,
    tmp_path: Path,
) -> None:
    bundle = make_bundle(tmp_path / "bundle", encoder=encoder, output_stride=stride)
    preprocessing = load_config(bundle).preprocessing.model_copy(update={"resize": "none"})
    prepared = prepare(load_bundle(bundle)[0], torch.randn(1, 3, 64, 64)).deployable
    export_onnx(prepared, metadata_of(bundle, preprocessing=preprocessing), tmp_path / "model.onnx")
    name, start = serve_file
    client = start(tmp_path / "model.onnx")
    check = partial(assert_same, load_eager(bundle))
    check_sequences(f"server, {name}, {encoder}", client, check, WANTED, results)
    assert client.server.client.get("/readyz").status_code == 200
