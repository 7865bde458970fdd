"""What masks, logits and confidence each runtime makes of each kind of file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from zoo.errors import BundleError
from zoo.predictors.base import Prediction
from zoo.predictors.load import load_predictor
from zoo.predictors.outputs import OUTPUTS, OutputRow, parse_outputs, resize_output
from zoo.predictors.runtimes.openvino import OpenVinoPredictor
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.predictors.runtimes.ort_cuda import OrtCudaPredictor
from zoo.preprocess import resize_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.predictors.exported import ExportedPredictor

    Load = Callable[[Path], ExportedPredictor]
    Linear = Callable[..., NDArray[np.float32]]
    WriteLinear = Callable[..., Path]

LOADERS = {
    "ort": lambda path: OrtPredictor(path, threads=1),
    "ort bound": lambda path: OrtCudaPredictor(path, "cpu"),
    "openvino": lambda path: OpenVinoPredictor(path, threads=1),
}


@pytest.fixture(params=LOADERS)
def load(request: pytest.FixtureRequest) -> Load:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return LOADERS[request.param]


def test_a_file_with_confidence_gives_both(
    load: Load, write_linear: WriteLinear, linear: Linear, noise: NDArray[np.uint8], tmp_path: Path
) -> None:
    predictor = load(write_linear(tmp_path / "model.onnx", "mask+confidence"))
    logits = linear(noise)
    mask, confidence = Prediction(predictor.infer(noise, predictor.available))
    assert confidence is not None
    assert mask.dtype == confidence.dtype == np.uint8
    assert np.array_equal(mask, logits.argmax(axis=1))
    assert np.array_equal(predictor.run(noise), mask)
    prob = torch.from_numpy(logits).softmax(dim=1).amax(dim=1).numpy()
    np.testing.assert_allclose(confidence, 255 * prob, atol=0.51)
    assert predictor.logits(noise) is None


def test_confidence_follows_from_logits(
    load: Load, write_linear: WriteLinear, linear: Linear, noise: NDArray[np.uint8], tmp_path: Path
) -> None:
    predictor = load(write_linear(tmp_path / "model.onnx", "logits"))
    other = load(write_linear(tmp_path / "other.onnx", "mask+confidence"))
    given = Prediction(other.infer(noise, other.available))
    mask, confidence = Prediction(predictor.infer(noise, predictor.available))
    assert np.array_equal(mask, given.mask)
    assert np.array_equal(predictor.run(noise), mask)
    assert confidence is not None
    assert given.confidence is not None
    assert np.abs(confidence.astype(int) - given.confidence).max() <= 1
    logits = predictor.logits(noise)
    assert logits is not None
    np.testing.assert_allclose(logits, linear(noise), atol=1e-4)


def test_a_file_of_masks_alone_has_no_confidence(
    load: Load, write_linear: WriteLinear, noise: NDArray[np.uint8], tmp_path: Path
) -> None:
    predictor = load(write_linear(tmp_path / "model.onnx", "mask"))
    assert Prediction(predictor.infer(noise, predictor.available)).confidence is None
    assert predictor.predict_with_confidence(noise[0]).confidence is None


@pytest.mark.parametrize("output", ["mask", "logits", "mask+confidence"])
def test_masks_of_many_classes_are_int32(
    load: Load,
    write_linear: WriteLinear,
    linear: Linear,
    noise: NDArray[np.uint8],
    tmp_path: Path,
    output: str,
) -> None:
    predictor = load(write_linear(tmp_path / "model.onnx", output, 300))
    mask = predictor.run(noise)
    assert mask.dtype == np.int32
    assert mask.max() > 255
    assert np.array_equal(mask, linear(noise, 300).argmax(axis=1))
    assert predictor.predict(noise[0]).dtype == np.int32


def test_mask_and_confidence_of_an_image_have_its_size(
    load: Load, write_linear: WriteLinear, tmp_path: Path
) -> None:
    predictor = load(write_linear(tmp_path / "model.onnx"))
    image = np.zeros((128, 100, 3), np.uint8)
    mask, confidence = predictor.predict_with_confidence(image)
    assert confidence is not None
    assert mask.shape == confidence.shape == (128, 100)
    assert (confidence == 85).all()  # a third each


def test_results_are_the_callers_own(
    load: Load, write_linear: WriteLinear, noise: NDArray[np.uint8], tmp_path: Path
) -> None:
    predictor = load(write_linear(tmp_path / "model.onnx"))
    first = Prediction(predictor.infer(noise, predictor.available))
    kept = [array.copy() for array in first if array is not None]
    predictor.infer(255 - noise, predictor.available)
    predictor.run(255 - noise)
    assert all(np.array_equal(array, copy) for array, copy in zip(first, kept, strict=True))
    first.mask[:] = 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mask+energy", r"got output 'energy', expected some of mask, logits, confidence"),
        ("mask+mask", "expected each once"),
        ("confidence", "expected mask or logits among them"),
        ("", "got output ''"),
    ],
)
def test_names_that_are_no_outputs_of_a_file_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_outputs(text)


def test_the_outputs_of_a_file_are_those_of_its_metadata_in_their_order(
    load: Load, write_linear: WriteLinear, noise: NDArray[np.uint8], tmp_path: Path
) -> None:
    predictor = load(write_linear(tmp_path / "model.onnx", "logits+confidence+mask"))
    assert [output.name for output in predictor.metadata.outputs] == ["logits", "confidence", "mask"]
    found = predictor.infer(noise, ("mask", "confidence"))
    assert list(found) == ["mask", "confidence"]
    assert np.array_equal(found["mask"], predictor.run(noise))


def test_an_output_that_a_file_does_not_have_is_an_error_that_says_how_to_get_it(
    load: Load, write_linear: WriteLinear, noise: NDArray[np.uint8], tmp_path: Path
) -> None:
    predictor = load(write_linear(tmp_path / "model.onnx", "mask"))
    with pytest.raises(BundleError, match=r"returns mask, got a request for 'confidence'.*mask\+confidence"):
        predictor.infer(noise, ("confidence",))


def test_logits_of_an_image_are_resized_as_the_networks_resize_theirs(tiny_bundle: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    predictor = load_predictor(tiny_bundle)
    found = predictor.predict_outputs(image, ("logits",)).outputs["logits"]
    assert (found.shape, found.dtype) == ((7, 90, 70), np.float32)
    small = predictor.logits(resize_image(image, predictor.preprocessing.model_size(90, 70))[None])
    assert small is not None
    tensor = torch.from_numpy(small)
    expected = nn.functional.interpolate(tensor, (90, 70), mode="bilinear", align_corners=True)[0]
    assert np.array_equal(found, expected.numpy())


def test_integers_that_are_interpolated_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OUTPUTS, "ramp", OutputRow("", lambda logits: logits, resize="bilinear"))
    assert resize_output("ramp", np.array([[0, 3]], np.uint8), (1, 4)).tolist() == [[0, 1, 2, 3]]
    assert resize_output("ramp", np.array([[0, 1]], np.uint8), (2, 4)).tolist() == [[0, 0, 1, 1]] * 2


def test_planes_of_the_nearest_value_are_those_of_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OUTPUTS, "planes", OutputRow("", lambda logits: logits, channels=True))
    planes = np.array([[[0, 1]], [[7, 9]]], np.int32)
    assert resize_output("planes", planes, (1, 4)).tolist() == [[[0, 0, 1, 1]], [[7, 7, 9, 9]]]
