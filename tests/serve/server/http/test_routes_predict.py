"""`POST /predict` on real servers: every format says what the predictor says."""

from __future__ import annotations

import io
import re
import tempfile
import threading
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.bundles import calibrate_by
from zoo.bundle.reliability import Calibration
from zoo.classes import Classes
from zoo.pages.overlay import overlay
from zoo.predictors.base import Predictor
from zoo.predictors.eager import load_eager
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.preprocess import Preprocessing
from zoo.serve.server.core import model
from zoo.serve.server.core.model import About
from zoo.serve.server.http import routes_predict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conftest import WriteOnnx
    from tests.serve.server.conftest import Running, ServeApp
    from zoo.predictors.eager import EagerPredictor


class Many(Predictor):
    """A predictor of 300 classes."""

    backend = "many"

    def __init__(self) -> None:
        super().__init__(
            Classes.of(tuple(f"class {label}" for label in range(300))),
            Preprocessing(imgsz=(32, 32), resize="none"),
        )

    def infer(self, images: NDArray[np.uint8], outputs: Sequence[str] = ("mask",)) -> dict[str, NDArray[Any]]:
        assert tuple(outputs) == ("mask",)
        return {"mask": images[..., 0].astype(np.int32) + 44}


@pytest.fixture
def image() -> NDArray[np.uint8]:
    random = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return np.kron(random, np.ones((8, 8, 1), np.uint8))


@pytest.fixture
def predictor(write_onnx: WriteOnnx, tmp_path: Path) -> OrtPredictor:
    return OrtPredictor(write_onnx(tmp_path / "model.onnx"), threads=1)


@pytest.fixture
def server(serve_app: ServeApp, predictor: OrtPredictor) -> Running:
    return serve_app({"bright": predictor, "many": Many()}, {"bright": About(card="# Bright")})


def png(image: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_a_png_is_indexed_by_class_and_has_the_colors_of_the_classes(
    server: Running, predictor: OrtPredictor, image: NDArray[np.uint8]
) -> None:
    answer = server.client.post("/predict", content=png(image))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    mask = Image.open(io.BytesIO(answer.content))
    assert mask.mode == "P"
    expected = predictor.predict(image)
    assert set(np.unique(expected)) == {0, 1}
    assert np.array_equal(np.asarray(mask), expected)
    assert np.array_equal(np.asarray(mask.convert("RGB")), predictor.classes.colorize(expected))


def test_a_png_of_more_than_255_classes_is_16_bit_gray(server: Running, image: NDArray[np.uint8]) -> None:
    answer = server.client.post("/predict", params={"model": "many"}, content=png(image))
    mask = Image.open(io.BytesIO(answer.content))
    assert mask.mode == "I;16"
    assert np.array_equal(np.asarray(mask), image[..., 0].astype(np.uint16) + 44)


@pytest.mark.parametrize(("model", "dtype"), [("bright", "uint8"), ("many", "int32")])
def test_npy_holds_the_mask_itself(
    server: Running, predictor: OrtPredictor, image: NDArray[np.uint8], model: str, dtype: str
) -> None:
    answer = server.client.post("/predict", params={"model": model, "format": "npy"}, content=png(image))
    assert answer.headers["content-type"] == "application/x-npy"
    mask = np.load(io.BytesIO(answer.content), allow_pickle=False)
    assert mask.dtype == dtype
    expected = {"bright": predictor, "many": Many()}[model].predict(image)
    assert np.array_equal(mask, expected)


def test_json_has_runs_that_make_the_mask_and_the_areas_of_what_is_there(
    server: Running, predictor: OrtPredictor, image: NDArray[np.uint8]
) -> None:
    answer = server.client.post("/predict", params={"format": "json"}, content=png(image)).json()
    expected = predictor.predict(image)
    assert (answer["model"], answer["version"], answer["size"]) == ("bright", "1", [48, 72])
    rle = answer["rle"]
    assert np.array_equal(np.repeat(rle["labels"], rle["lengths"]).reshape(48, 72), expected)
    assert all(first != second for first, second in zip(rle["labels"], rle["labels"][1:], strict=False))
    bright = int(expected.sum())
    assert answer["areas"][1] == {
        "label": 1,
        "name": "bright",
        "color": "#800000",
        "pixels": bright,
        "share": bright / expected.size,
    }
    dark = server.client.post("/predict?format=json", content=png(np.zeros_like(image))).json()
    assert [area["name"] for area in dark["areas"]] == ["dark"]
    assert dark["rle"] == {"labels": [0], "lengths": [48 * 72]}


def test_an_overlay_is_the_one_of_zoo_predict(
    server: Running, predictor: OrtPredictor, image: NDArray[np.uint8]
) -> None:
    answer = server.client.post("/predict", params={"format": "overlay"}, content=png(image))
    expected = overlay(image, predictor.predict(image), predictor.classes)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), expected)


@pytest.fixture
def calibrated(serve_app: ServeApp, bundle_copy: Path) -> tuple[Running, EagerPredictor, float]:
    """Return a server of a calibrated model and another one, the model, and a reliability in the middle."""
    calibrate_by(bundle_copy, Calibration(score="temperature", temperature=0.1))
    local = load_eager(bundle_copy)
    images = np.random.default_rng(0).integers(0, 256, (1, 48, 72, 3), dtype=np.uint8)
    below = float(np.median(local.infer(images, ("reliability",))["reliability"])) / 255
    return serve_app({"sure": local, "many": Many()}), local, below


def test_unsure_pixels_are_unknown_in_every_format(
    calibrated: tuple[Running, EagerPredictor, float], image: NDArray[np.uint8]
) -> None:
    server, local, below = calibrated
    expected = local.predict(image, below)
    shares = np.bincount(expected.ravel(), minlength=256) / expected.size
    assert 0.02 < shares[255] < 0.98
    found = {
        name: server.client.post(
            "/predict", params={"format": name, "unknown_below": below}, content=png(image)
        )
        for name in ("png", "npy", "json", "overlay")
    }
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(found["png"].content))), expected)
    assert np.array_equal(np.load(io.BytesIO(found["npy"].content)), expected)
    drawn = overlay(image, expected, local.classes)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(found["overlay"].content))), drawn)
    answer = found["json"].json()
    assert np.array_equal(np.repeat(answer["rle"]["labels"], answer["rle"]["lengths"]), expected.ravel())
    assert {area["label"]: area["share"] for area in answer["areas"]} == {
        label: pytest.approx(share) for label, share in enumerate(shares[:255]) if share
    }


def test_one_request_gives_the_mask_with_other_outputs(
    calibrated: tuple[Running, EagerPredictor, float], image: NDArray[np.uint8]
) -> None:
    server, local, below = calibrated
    names = ("mask", "reliability", "confidence")
    expected = local.predict_outputs(image, names)
    answer = server.client.post(f"/predict?format=json&output={'+'.join(names)}", content=png(image)).json()
    assert np.array_equal(np.repeat(answer["rle"]["labels"], answer["rle"]["lengths"]), expected.mask.ravel())
    assert list(answer["outputs"]) == ["reliability", "confidence"]
    for name, text in answer["outputs"].items():
        values = np.frombuffer(b64decode(text), np.uint8)
        assert np.array_equal(values, expected.outputs[name].ravel())
        assert len(np.unique(values)) > 10
    alone = server.client.post("/predict?format=json", content=png(image)).json()
    assert alone == answer | {"outputs": {}}
    both = {"format": "json", "output": "mask+reliability", "unknown_below": below}
    unknown = server.client.post("/predict", params=both, content=png(image)).json()
    assert unknown["outputs"] == {"reliability": answer["outputs"]["reliability"]}
    assert 255 in unknown["rle"]["labels"]


@pytest.mark.parametrize(
    ("params", "status", "words"),
    [
        ({"unknown_below": 60}, 422, "unknown_below"),
        ({"unknown_below": "nan"}, 422, "unknown_below"),
        ({"unknown_below": 0.5, "model": "many"}, 400, "many has no reliability: run zoo calibrate"),
        ({"unknown_below": 0.5, "output": "reliability"}, 400, "expected mask among the outputs"),
        ({"output": "mask+reliability"}, 400, "got format 'png' .* expected format 'json'"),
        ({"output": "reliability+mask", "format": "json"}, 400, "the mask first"),
        ({"output": "mask+mask", "format": "json"}, 400, "each output once"),
        ({"output": "mask+depth", "format": "json"}, 400, r"got output 'mask\+depth', expected mask or"),
    ],
)
def test_outputs_that_cannot_be_given_are_errors(
    calibrated: tuple[Running, EagerPredictor, float], params: dict[str, Any], status: int, words: str
) -> None:
    answer = calibrated[0].client.post("/predict", params=params, content=b"")
    assert answer.status_code == status
    assert re.search(words, answer.json()["detail"])


def test_images_and_outputs_are_resized_by_the_threads_that_decode_and_encode(
    server: Running, image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            threads.append(threading.current_thread().name)
            return function(*args)

        return call

    monkeypatch.setattr(model, "resize_image", noted(model.resize_image))
    monkeypatch.setattr(routes_predict, "resize_output", noted(routes_predict.resize_output))
    answer = server.client.post("/predict", content=png(image))
    assert answer.status_code == 200
    assert [name.rpartition("_")[0] for name in threads] == ["codec", "codec"]


def test_an_answer_tells_its_model_and_where_its_time_went(server: Running, image: NDArray[np.uint8]) -> None:
    answer = server.client.post("/predict", content=png(image))
    assert answer.headers["x-zoo-model"] == "bright"
    parts = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert list(parts) == ["decode", "queue", "compute", "encode"]
    assert all(0 <= float(milliseconds) < 10_000 for milliseconds in parts.values())
    assert float(parts["compute"]) > 0


@pytest.mark.parametrize(
    "content_type",
    [
        "image/png",
        "image/jpeg",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "text/plain",
    ],
)
def test_an_image_is_taken_under_any_content_type(
    server: Running, image: NDArray[np.uint8], content_type: str
) -> None:
    answer = server.client.post("/predict", content=png(image), headers={"content-type": content_type})
    assert answer.status_code == 200


def test_a_form_with_one_file_is_taken_whatever_its_field_is_called(
    server: Running, image: NDArray[np.uint8]
) -> None:
    plain = server.client.post("/predict", content=png(image))
    form = server.client.post("/predict", files={"photo": ("../../etc/passwd", png(image))})
    assert form.status_code == 200
    assert form.content == plain.content


def test_a_form_of_a_large_file_is_kept_in_memory(
    serve_app: ServeApp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    body = png(noise)
    assert len(body) > 1_200_000
    assert serve_app().client.post("/predict", files={"image": body}).status_code == 200


def test_models_are_listed_with_all_that_a_client_needs(server: Running) -> None:
    first, second = server.client.get("/models").json()
    assert first == {
        "name": "bright",
        "version": "1",
        "fingerprint": "",
        "backend": "ort",
        "description": server.models["bright"].description,
        "reason": "",
        "imgsz": [64, 64],
        "resize": "fit",
        "tile": None,
        "overlap": None,
        "timeout": 30.0,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "channels": 3,
        "dtype": "uint8",
        "ranges": None,
        "classes": [
            {"label": 0, "name": "dark", "color": "#000000"},
            {"label": 1, "name": "bright", "color": "#800000"},
        ],
        "output": "uint8",
        "outputs": ["mask"],
        "max_batch": 8,
        "ready": True,
    }
    assert (second["name"], second["output"], len(second["classes"])) == ("many", "int32", 300)


def test_the_card_of_a_model_is_markdown(server: Running) -> None:
    card = server.client.get("/models/bright/card")
    assert card.text == "# Bright"
    assert card.headers["content-type"].startswith("text/markdown")
    missing = server.client.get("/models/many/card")
    assert missing.status_code == 404
    assert "many has no card" in missing.json()["detail"]


def test_an_unknown_model_is_404_and_names_those_there_are(server: Running) -> None:
    answer = server.client.post("/predict", params={"model": "dim"}, content=b"")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "got model 'dim', expected one of bright, many: see /models"


def test_an_unknown_format_is_422_and_names_those_there_are(server: Running) -> None:
    answer = server.client.post("/predict", params={"format": "tiff"}, content=b"")
    assert answer.status_code == 422
    assert "'png', 'npy', 'json' or 'overlay'" in answer.json()["detail"]
