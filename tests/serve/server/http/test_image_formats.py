"""Servers of models whose images are not 8-bit RGB: bodies, tensors and the remote predictor."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import tritonclient.grpc
from PIL import Image
from tritonclient import http as triton
from tritonclient.grpc import service_pb2

from zoo.classes import Classes
from zoo.image_format import ImageFormat
from zoo.predictors.base import Predictor
from zoo.predictors.remote.predictor import RemotePredictor
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tests.serve.server.conftest import ServeApp

FORMATS = [
    ImageFormat(channels=4),
    ImageFormat(channels=1, dtype="uint16", ranges=((0, 4000),)),
    ImageFormat(channels=5, dtype="float32", ranges=((-1, 1),) * 5),
]
CONTENTS = {"UINT8": "uint_contents", "UINT16": "uint_contents", "FP32": "fp32_contents"}
TYPES = {"uint8": "UINT8", "uint16": "UINT16", "float32": "FP32"}

each_format = pytest.mark.parametrize("format_", FORMATS, ids=str)


class LastChannel(Predictor):
    """A model whose class is 1 where the last channel is in the upper half of its range."""

    backend = "stand-in"

    def __init__(self, format_: ImageFormat) -> None:
        mean = (0.5,) * format_.channels
        preprocessing = Preprocessing(imgsz=(32, 32), resize="fit", mean=mean, std=mean, format=format_)
        super().__init__(Classes.of(("low", "high")), preprocessing)

    def infer(self, images: NDArray[Any], outputs: Sequence[str] = ("mask",)) -> dict[str, NDArray[Any]]:
        assert tuple(outputs) == ("mask",)
        assert images.dtype.name == self.format.dtype
        low, high = self.format.bounds[-1]
        return {"mask": (images[..., -1] > (low + high) / 2).astype(np.uint8)}


def image_of(format_: ImageFormat, size: tuple[int, int] = (40, 60)) -> NDArray[Any]:
    """Return blocks of values within the ranges of a format."""
    low, high = np.array(format_.bounds).T
    cells = np.random.default_rng(0).uniform(low, high, (size[0] // 10, size[1] // 10, format_.channels))
    return np.kron(cells, np.ones((10, 10, 1))).astype(format_.dtype)


def npy(image: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, image)
    return file.getvalue()


def tiff(image: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, image.transpose(2, 0, 1), photometric="minisblack")
    return file.getvalue()


@each_format
def test_a_body_is_the_bytes_of_an_array_or_of_a_tiff_file(format_: ImageFormat, serve_app: ServeApp) -> None:
    predictor, image = LastChannel(format_), image_of(format_)
    client = serve_app({"bands": predictor}).client
    expected = predictor.predict(image)
    assert 0 < expected.mean() < 1
    for body in (npy(image), tiff(image)):
        answer = client.post("/predict?format=npy", content=body)
        assert answer.status_code == 200, answer.text
        np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), expected)


@each_format
def test_an_overlay_shows_three_channels(format_: ImageFormat, serve_app: ServeApp) -> None:
    client = serve_app({"bands": LastChannel(format_)}).client
    answer = client.post("/predict?format=overlay", content=npy(image_of(format_)))
    assert np.asarray(Image.open(io.BytesIO(answer.content))).shape == (40, 60, 3)


@each_format
def test_an_image_of_another_format_is_one_line(format_: ImageFormat, serve_app: ServeApp) -> None:
    client = serve_app({"bands": LastChannel(format_)}, max_pixels=3000).client
    jpeg = io.BytesIO()
    Image.new("RGB", (20, 20)).save(jpeg, "JPEG")
    for body in (jpeg.getvalue(), npy(np.zeros((8, 8, 9), format_.dtype)), npy(np.zeros((8, 8), np.int64))):
        answer = client.post("/predict", content=body)
        assert answer.status_code == 400
        assert f"expected {format_}" in answer.json()["detail"]
    assert client.post("/predict", content=npy(image_of(format_))[:200]).status_code == 400
    large = client.post("/predict", content=npy(image_of(format_, (60, 60))))
    assert large.status_code == 413
    assert "60 x 60 pixels, expected at most 3000" in large.json()["detail"]


def test_a_body_that_is_not_finite_is_one_line(serve_app: ServeApp) -> None:
    format_ = FORMATS[-1]
    image = image_of(format_)
    image[0, 0] = np.nan
    server = serve_app({"bands": LastChannel(format_)})
    assert "5 values that are NaN" in server.client.post("/predict", content=npy(image)).json()["detail"]
    tensor = triton.InferInput("image", [1, *image.shape], "FP32")
    tensor.set_data_from_numpy(image[None])
    with pytest.raises(Exception, match="NaN"):
        triton.InferenceServerClient(f"127.0.0.1:{server.port}").infer("bands", [tensor])


@each_format
@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_sends_tensors_of_the_format(
    format_: ImageFormat, binary: bool, serve_app: ServeApp
) -> None:
    predictor, image = LastChannel(format_), image_of(format_, (30, 30))
    client = triton.InferenceServerClient(f"127.0.0.1:{serve_app({'bands': predictor}).port}")
    [described] = client.get_model_metadata("bands")["inputs"]
    assert described["datatype"] == TYPES[format_.dtype]
    assert described["shape"] == [-1, -1, -1, format_.channels]
    tensor = triton.InferInput("image", [1, *image.shape], described["datatype"])
    tensor.set_data_from_numpy(image[None], binary_data=binary)
    mask = client.infer("bands", [tensor]).as_numpy("mask")
    np.testing.assert_array_equal(mask, predictor.run(image[None]))


@each_format
def test_a_remote_predictor_equals_that_of_the_server(format_: ImageFormat, serve_app: ServeApp) -> None:
    predictor, image = LastChannel(format_), image_of(format_)
    server = serve_app({"bands": predictor})
    remote = RemotePredictor(f"http://127.0.0.1:{server.port}")
    assert remote.preprocessing == predictor.preprocessing
    np.testing.assert_array_equal(remote.predict(image), predictor.predict(image))
    small = image_of(format_, (30, 30))[None]
    np.testing.assert_array_equal(remote.run(small), predictor.run(small))
    remote.close()


@each_format
def test_grpc_takes_tensors_of_the_format_as_bytes_and_as_numbers(
    format_: ImageFormat, serve_app: ServeApp
) -> None:
    predictor, image = LastChannel(format_), image_of(format_, (30, 30))[None]
    server = serve_app({"bands": predictor}, grpc=True)
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        [described] = client.get_model_metadata("bands").inputs
        assert described.datatype == TYPES[format_.dtype]
        tensor = tritonclient.grpc.InferInput("image", list(image.shape), described.datatype)
        tensor.set_data_from_numpy(image)
        mask = client.infer("bands", [tensor]).as_numpy("mask")
        np.testing.assert_array_equal(mask, predictor.run(image))
        numbers = service_pb2.InferTensorContents(**{CONTENTS[described.datatype]: image.ravel().tolist()})
        fields = {"name": "image", "datatype": described.datatype, "shape": image.shape, "contents": numbers}
        answer = client._client_stub.ModelInfer(
            service_pb2.ModelInferRequest(model_name="bands", inputs=[fields])
        )
    assert list(answer.outputs[0].contents.uint_contents) == mask.ravel().tolist()
