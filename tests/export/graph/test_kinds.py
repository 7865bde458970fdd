"""An ensemble and a gate through ONNX and TensorRT: nothing of export knows that they are no student."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
import pytest
import torch

from tests.bundles import metadata_of
from zoo.bundle.weights import load_bundle
from zoo.errors import BundleError, ParityError
from zoo.export.compose import Composition, compose
from zoo.export.graph.fold import prepare
from zoo.export.options import ExportOptions
from zoo.export.parity.compare import compare_masks
from zoo.export.parity.tolerance import GATES
from zoo.export.pipeline import export_bundle
from zoo.models.deployable import REMOVED, Gated
from zoo.predictors.load import load_predictor
from zoo.predictors.runtimes.trt_api import installed_flavors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Photos = Callable[..., NDArray[np.uint8]]

KINDS = ("ensemble", "gated", "gated ensemble")
SIZES = [(64, 64), (48, 64), (64, 41), (53, 37)]


class Exported(NamedTuple):
    bundle: Path
    made: tuple[str, ...]


def silent(text: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module", params=KINDS)
def bundle(
    request: pytest.FixtureRequest,
    student_bundle: Path,
    ensemble_bundle: Path,
    classifier_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return a bundle of each kind."""
    out = tmp_path_factory.mktemp("kind") / "bundle"
    if request.param == "ensemble":
        return compose(ensemble_bundle, Composition(fuse_weight=0.4), out, silent)
    source = ensemble_bundle if "ensemble" in request.param else student_bundle
    return compose(source, Composition(gate=classifier_bundle, gate_threshold=0.5), out, silent)


@pytest.fixture(scope="module")
def exported(bundle: Path) -> Exported:
    """Return the bundle after an export of everything that can be made here."""
    trt = "rtx" in installed_flavors()
    # random weights: so many near ties that fp16 would miss its gate
    options = ExportOptions(trt=trt, sm=(86,) if trt else (), min_agreement=0.99)
    report = export_bundle(bundle, options)
    return Exported(bundle, tuple(artifact.name for artifact in report.artifacts))


def removed_classes(bundle: Path, images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which classes the gate of a bundle removes, (B, K)."""
    logits = load_predictor(bundle).logits(images)
    assert logits is not None
    return (logits < REMOVED / 2).all(axis=(2, 3))


def test_every_batch_norm_of_all_networks_is_folded(bundle: Path) -> None:
    deployable, _ = load_bundle(bundle)
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in deployable.modules())
    prepared = prepare(deployable, torch.randn(1, 3, 64, 64))
    assert prepared.fused == norms > 20
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in prepared.deployable.modules())
    assert prepared.logit_difference < 1e-3


@pytest.mark.slow
def test_onnx_files_and_an_engine_are_made(exported: Exported) -> None:
    assert exported.made[:2] == ("model.onnx", "model.fp16.onnx")
    if "rtx" in installed_flavors():
        assert exported.made[2].startswith("engines/model.fp16.rtx")
    for name in exported.made[:2]:
        graph = onnx.load(exported.bundle / name).graph
        assert not [node for node in graph.node if node.op_type in {"BatchNormalization", "If", "Loop"}]
        assert [dim.dim_param for dim in graph.input[0].type.tensor_type.shape.dim[:3]] == ["b", "h", "w"]


@pytest.mark.slow
def test_the_fp32_file_passes_the_gate_of_trained_models(exported: Exported, photos: Photos) -> None:
    artifact = load_predictor(exported.bundle / "model.onnx", threads=1)
    reference = load_predictor(exported.bundle)
    for size in SIZES:
        images = photos(8, size)
        logits = reference.logits(images)
        assert logits is not None
        difference = compare_masks(logits, artifact.run(images))
        assert difference.differing <= 2
        assert difference.margin < 1e-3
        assert np.array_equal(artifact.run(images[3:4]), artifact.run(images)[3:4])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.onnx", "model.fp16.onnx"])
def test_a_removed_class_is_never_in_the_masks_of_an_artifact(
    exported: Exported, name: str, photos: Photos
) -> None:
    deployable, _ = load_bundle(exported.bundle)
    if not isinstance(deployable, Gated):
        pytest.skip("no gate")
    artifact = load_predictor(exported.bundle / name, threads=1)
    for size in SIZES:
        images = photos(16, size)
        removed = removed_classes(exported.bundle, images)
        assert 16 < removed.sum() < 90
        assert not removed[:, 0].any()
        for mask, absent in zip(artifact.run(images), removed, strict=True):
            assert not np.isin(mask, np.flatnonzero(absent)).any()


def test_the_margin_of_a_gated_model_is_not_measured_by_the_mark_of_a_removed_class() -> None:
    logits = np.zeros((1, 3, 1, 2), np.float32)
    logits[0, :, 0, 0] = 5.0, 1.0, REMOVED
    mask = np.array([[[1, 0]]])
    assert compare_masks(logits, mask).margin == pytest.approx(4 / 5)
    assert not compare_masks(logits, mask).passes(GATES["fp32"])
    mask[0, 0, 0] = 2
    assert compare_masks(logits, mask).margin > 1000


@pytest.mark.slow
def test_an_artifact_without_its_gate_is_not_kept(
    student_bundle: Path, classifier_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Composition(gate=classifier_bundle, gate_threshold=0.5)
    bundle = compose(student_bundle, gate, tmp_path / "gated", silent)
    monkeypatch.setattr("zoo.export.pipeline.prepare", partial(_prepare_without_gate, prepare))
    with pytest.raises(ParityError, match=r"(?s)model\.onnx differs.*FAILED"):
        export_bundle(bundle, ExportOptions(precision=("fp32",)))
    assert not list(bundle.glob("*.onnx"))


def _prepare_without_gate(prepare: ..., deployable: Gated, sample: torch.Tensor) -> ...:
    return prepare(deployable.segmentation, sample)


def test_an_artifact_of_another_threshold_is_refused(
    student_bundle: Path, classifier_bundle: Path, tmp_path: Path, write_onnx: Callable[..., Path]
) -> None:
    gate = Composition(gate=classifier_bundle, gate_threshold=0.5)
    bundle = compose(student_bundle, gate, tmp_path / "gated", silent)
    write_onnx(bundle / "model.onnx", metadata=metadata_of(bundle).model_dump_json())
    assert load_predictor(bundle, backend="ort").backend == "ort"
    compose(student_bundle, gate.model_copy(update={"gate_threshold": 0.4}), bundle, silent)
    with pytest.raises(BundleError, match="was made from other weights"):
        load_predictor(bundle, backend="ort")
