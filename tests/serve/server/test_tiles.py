"""Images that are larger than a tile, in servers with `--tile`."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.errors import BundleError
from zoo.predictors.eager import load_eager
from zoo.predictors.outputs import CONFIDENCE, MASK
from zoo.predictors.tiles import Tiling, predict_tiles
from zoo.serve.server.core.loading import ModelSource, load_model
from zoo.serve.server.core.settings import ServerSettings

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.serve.server.conftest import Running, ServeApp


@pytest.fixture
def tiled(serve_app: ServeApp, tiny_bundle: Path) -> Running:
    """Return a server with tiles of 64 pixels."""
    return serve_app(
        {"tiny": load_eager(tiny_bundle)}, tile=64, overlap=0.25, max_pixels=200 * 200, max_batch=3
    )


def image_of(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def answered(server: Running, image: NDArray[np.uint8], output: str = MASK) -> NDArray[np.uint8]:
    answer = server.client.post("/predict", params={"format": "npy", "output": output}, content=png(image))
    assert answer.status_code == 200, answer.text
    values: NDArray[np.uint8] = np.load(io.BytesIO(answer.content))
    return values


@pytest.mark.parametrize("size", [(150, 110), (40, 130), (64, 64), (30, 50)])
def test_a_server_with_tiles_answers_as_prediction_in_tiles_does(
    tiled: Running, tiny_bundle: Path, size: tuple[int, int]
) -> None:
    image = image_of(*size)
    expected = predict_tiles(load_eager(tiny_bundle), image, Tiling(64, 0.25), (MASK, CONFIDENCE), 3).outputs
    assert np.array_equal(answered(tiled, image), expected[MASK])
    assert np.array_equal(answered(tiled, image, CONFIDENCE), expected[CONFIDENCE])


def test_tensors_of_inference_clients_are_cut_into_tiles_too(tiled: Running, tiny_bundle: Path) -> None:
    image = image_of(90, 140)
    tensor = {
        "name": "image",
        "datatype": "UINT8",
        "shape": [1, *image.shape],
        "data": image.ravel().tolist(),
    }
    answer = tiled.client.post("/v2/models/tiny/infer", json={"inputs": [tensor]})
    assert answer.status_code == 200, answer.text
    [found] = answer.json()["outputs"]
    expected = predict_tiles(load_eager(tiny_bundle), image, Tiling(64, 0.25), batch=3).mask
    assert np.array_equal(np.reshape(found["data"], found["shape"])[0], expected)


def test_every_way_of_python_to_a_server_with_tiles_sends_images_as_they_are(
    tiled: Running, tiny_bundle: Path
) -> None:
    image = image_of(150, 110)
    expected = predict_tiles(load_eager(tiny_bundle), image, Tiling(64, 0.25), (MASK, CONFIDENCE), 3).outputs
    url = f"http://127.0.0.1:{tiled.port}"
    model = zoo.load(url)
    assert np.array_equal(model(image), expected[MASK])
    assert np.array_equal(zoo.predict(url, [image])[0], expected[MASK])
    mask, confidence = model.predict_with_confidence(image)
    assert np.array_equal(mask, expected[MASK])
    assert np.array_equal(confidence, expected[CONFIDENCE])


def test_an_image_of_too_many_pixels_is_refused_in_one_line(tiled: Running) -> None:
    answer = tiled.client.post("/predict", content=png(image_of(201, 200)))
    assert answer.status_code == 413
    assert "201 x 200 pixels, expected at most 40000" in answer.json()["detail"]


def test_a_file_of_masks_alone_is_refused_and_a_bundle_with_one_runs_in_pytorch(
    onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.serve.server.core.loading.gpu_count", lambda: 0)
    settings = ServerSettings(tile=64)
    with pytest.raises(BundleError, match=r"export again with --output mask\+logits"):
        load_model(ModelSource("m", onnx_bundle / "model.onnx"), settings)
    assert load_model(ModelSource("m", onnx_bundle), settings).backend == "eager"


def test_an_overlap_without_tiles_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="expected a tile of 32 pixels or more"):
        zoo.serve(tiny_bundle, overlap=0.5)
