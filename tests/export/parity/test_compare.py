from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.bundle.weights import load_bundle
from zoo.classes import Classes
from zoo.errors import ParityError
from zoo.export.check import Checker
from zoo.export.options import ExportOptions
from zoo.export.parity.accuracy import Accuracy, Change
from zoo.export.parity.compare import (
    Difference,
    Images,
    Parity,
    check_parity,
    compare,
    compare_masks,
    parity_shapes,
    weakness,
)
from zoo.export.parity.tolerance import GATES, Tolerance
from zoo.predictors.base import Predictor
from zoo.predictors.eager import EagerPredictor
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.predictors.artifact import Precision

SHAPES = parity_shapes((64, 64), 4)


class Threshold(Predictor):
    """The reference of the tiny ONNX file: bright where red + green + blue is over `level`."""

    backend = "reference"

    def __init__(self, level: int = 384) -> None:
        super().__init__(Classes.of(("dark", "bright")), Preprocessing(imgsz=(64, 64)))
        self.level = level

    def infer(self, images: NDArray[np.uint8], outputs: Sequence[str] = ("mask",)) -> dict[str, NDArray[Any]]:
        logits = self.logits(images)
        found = {"mask": logits.argmax(axis=1).astype(np.uint8), "logits": logits}
        return {name: found[name] for name in outputs}

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        brightness = images.astype(np.float32).sum(axis=3)
        return np.stack([np.full_like(brightness, self.level), brightness], axis=1)


@pytest.fixture(scope="module")
def images() -> Images:
    random = np.random.default_rng(0)
    return Images(tuple(random.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(8)), "noise")


def parity(agreement: float, margin: float, gate: Tolerance = GATES["fp32"]) -> Parity:
    difference = Difference(shape=(1, 64, 64), agreement=agreement, differing=1, margin=margin)
    return Parity(gate=gate, images="noise", runtime="test", differences=(difference,))


def test_a_differing_pixel_counts_with_its_lead_over_the_class_that_was_chosen() -> None:
    logits = np.array([[[[5.0, 0.0]], [[4.0, 10.0]], [[1.0, 0.0]]]], np.float32)  # (1, 3, 1, 2)
    difference = compare_masks(logits, np.array([[[2, 1]]]))
    assert (difference.shape, difference.differing, difference.agreement) == ((1, 1, 2), 1, 0.5)
    assert difference.margin == pytest.approx((5 - 1) / 10)


def test_equal_masks_have_no_margin() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    difference = compare_masks(logits, logits.argmax(axis=1).astype(np.uint8))
    assert (difference.differing, difference.margin, difference.agreement) == (0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("agreement", "margin", "passes"),
    [(1.0, 0.0, True), (0.99995, 9e-4, True), (0.99995, 2e-3, False), (0.9998, 1e-9, False)],
)
def test_fp32_needs_agreement_and_near_ties(agreement: float, margin: float, passes: bool) -> None:
    assert parity(agreement, margin).passed is passes


@pytest.mark.parametrize(
    ("agreement", "margin", "passes"),
    [(0.9995, 0.5, True), (0.999, 1e-3, True), (0.998, 1e-3, False)],
)
def test_fp16_needs_agreement(agreement: float, margin: float, passes: bool) -> None:
    assert parity(agreement, margin, GATES["fp16"]).passed is passes


def test_a_gate_reads_as_a_sentence() -> None:
    assert str(GATES["fp32"]) == ">= 0.9999, margin < 0.001, drop <= 0.1 points"
    assert str(Tolerance(min_agreement=0.98)) == ">= 0.98"


@pytest.mark.parametrize("imgsz", [(64, 64), (512, 512), (512, 1024), (1024, 512), (96, 33), (769, 769)])
def test_shapes_are_portrait_landscape_odd_and_full_batch_within_imgsz(imgsz: tuple[int, int]) -> None:
    shapes = parity_shapes(imgsz, 8)
    sizes = [shape[1:] for shape in shapes]
    assert all(height <= imgsz[0] and width <= imgsz[1] for height, width in sizes)
    assert any(height > width for height, width in sizes)
    assert any(height < width for height, width in sizes)
    assert any(height % 2 and width % 2 for height, width in sizes)
    assert (1, *imgsz) in shapes
    assert (8, *imgsz) in shapes


def test_an_equal_artifact_passes_at_every_shape(write_onnx: Any, tmp_path: Path, images: Images) -> None:
    artifact = OrtPredictor(write_onnx(tmp_path / "model.onnx"))
    result = compare(artifact, Threshold(), images, SHAPES, GATES["fp32"])  # type: ignore[arg-type]
    assert result.passed
    assert [difference.shape for difference in result.differences] == list(SHAPES)
    assert [difference.batches for difference in result.differences] == [8, 8, 8, 8, 2]
    assert "ONNX Runtime" in result.runtime


def test_a_frozen_dimension_is_caught(write_onnx: Any, tmp_path: Path, images: Images) -> None:
    artifact = OrtPredictor(write_onnx(tmp_path / "model.onnx", height=64))
    result = compare(artifact, Threshold(), images, SHAPES, GATES["fp16"])  # type: ignore[arg-type]
    assert not result.passed
    failed = [difference.shape for difference in result.differences if difference.error]
    assert failed == [shape for shape in SHAPES if shape[1] != 64]
    with pytest.raises(ParityError, match=r"8 of 1x48x64 +0\.000000 .*expected 64 x 1..any"):
        check_parity({"model.onnx": result})


def test_a_shifted_input_is_caught(write_onnx: Any, tmp_path: Path, images: Images) -> None:
    artifact = OrtPredictor(write_onnx(tmp_path / "model.onnx"))
    result = compare(artifact, Threshold(390), images, SHAPES, GATES["fp32"])  # type: ignore[arg-type]
    assert not result.passed
    assert result.margin == pytest.approx(6 / (255 * 3), rel=0.2)


def test_the_error_names_the_artifact_its_gate_and_what_differed() -> None:
    passed, failed = parity(1.0, 0.0), parity(0.99, 0.2)
    with pytest.raises(
        ParityError, match=r"(?s)^model\.fp16\.onnx differs.*>= 0\.9999.*0\.990000.*FAILED"
    ) as info:
        check_parity({"model.onnx": passed, "model.fp16.onnx": failed})
    assert "\nmodel.onnx" not in str(info.value)
    check_parity({"model.onnx": passed})


def masks(counts: tuple[int, ...], precision: Precision) -> Parity:
    """Return the parity of equal masks with so many pixels of each class."""
    difference = Difference(shape=(1, 10, 100), agreement=1, differing=0, margin=0, counts=counts)
    return Parity(gate=GATES[precision], images="noise", runtime="test", differences=(difference,) * 2)


@pytest.mark.parametrize(
    ("counts", "precision", "found"),
    [
        ((0, 1000, 0), "fp32", "the model predicts 'road' at every compared pixel"),
        ((985, 15, 0), "int8", "98.50% of the compared pixels are 'sky', a file without other classes would"),
        ((985, 15, 0), "fp32", ""),
        ((970, 30, 0), "int8", ""),
    ],
)
def test_the_agreement_of_masks_of_one_class_proves_nothing(
    counts: tuple[int, ...], precision: Precision, found: str
) -> None:
    reason = weakness(masks(counts, precision), ("sky", "road", "car"))
    assert reason.startswith(found)
    assert bool(reason) is bool(found)


def test_images_with_masks_show_a_file_that_lost_its_rare_classes() -> None:
    change = Change(name="mIoU", reference=0.5, artifact=0.5, low=-0.01, high=0.01)
    accuracy = Accuracy(data="val", images=9, agreement=1, miou=change, classes=())
    rare = masks((985, 15, 0), "int8").model_copy(update={"accuracy": accuracy})
    assert weakness(rare, ("sky", "road", "car")) == ""
    constant = masks((1000, 0, 0), "int8").model_copy(update={"accuracy": accuracy})
    assert weakness(constant, ("sky", "road", "car"))


def test_a_model_of_one_class_agrees_with_a_warning(tiny_bundle: Path, tmp_path: Path) -> None:
    deployable, config = load_bundle(tiny_bundle)
    with torch.no_grad():
        deployable.network.decoder.segment[-1].bias[2] += 100
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / "a.png")
    said: list[str] = []
    checker = Checker(deployable, config, ExportOptions(images=str(tmp_path)), said.append)
    for _ in range(2):
        parity = checker.compare("model.onnx", EagerPredictor(deployable, config), "fp32")
        assert parity.passed
        assert parity.weakness == "the model predicts 'class-2' at every compared pixel"
    (warning,) = [line for line in said if line.startswith("warning")]
    assert warning.startswith(f"warning: agreement proves nothing: {parity.weakness}; train it longer, or")
