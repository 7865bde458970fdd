"""The reliability by a score of the model itself, ELN's localizer or the agreement of branches, in files."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch

from tests.bundles import calibrate_by, metadata_of
from tests.localized import shapes_inputs
from zoo.bundle.bundle import load_config, update_config
from zoo.bundle.reliability import Calibration
from zoo.bundle.weights import load_bundle
from zoo.errors import BundleError
from zoo.export.compose import Composition, compose
from zoo.export.graph.fold import prepare
from zoo.export.graph.layers import LOGITS, find_departure, layer_errors
from zoo.export.graph.to_onnx import export_onnx
from zoo.export.options import ExportOptions
from zoo.export.pipeline import export_bundle, kept_calibration
from zoo.models.decoders.decoder import resize_logits
from zoo.models.deployable import FusedEnsemble, Gated, Localized, Student
from zoo.predictors.eager import load_eager
from zoo.predictors.outputs import check_given, derivable
from zoo.predictors.runtimes.openvino import OpenVinoPredictor
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.preprocess import normalize

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Photos = Callable[..., NDArray[np.uint8]]

KNOTS = ((0.0, 0.1), (0.5, 0.5), (0.9, 0.95), (1.0, 1.0))
CALIBRATIONS = (
    Calibration(score="temperature", temperature=1.5),
    Calibration(score="localizer", shift=1.5, knots=KNOTS),
)
AGREEMENT = Calibration(score="agreement", knots=KNOTS)


@pytest.fixture
def bundle(localized_bundle: Path, tmp_path: Path) -> Path:
    """Return a bundle whose output `reliability` is by the localizer."""
    folder = shutil.copytree(localized_bundle, tmp_path / "bundle")
    calibrate_by(folder, *CALIBRATIONS)
    return folder


@pytest.fixture
def ensemble(ensemble_bundle: Path, tmp_path: Path) -> Path:
    """Return a bundle whose output `reliability` is by the agreement of two branches."""
    folder = shutil.copytree(ensemble_bundle, tmp_path / "ensemble")
    calibrate_by(folder, AGREEMENT)
    return folder


def write_onnx(bundle: Path, output: str, path: Path) -> Path:
    config = load_config(bundle)
    deployable, _ = load_bundle(bundle)
    metadata = metadata_of(bundle, output=output, calibration=kept_calibration(config, output))
    prepared = prepare(deployable, shapes_inputs(1, config.preprocessing))
    export_onnx(prepared.deployable, metadata, path)
    return path


def test_the_localizer_is_folded_too(bundle: Path) -> None:
    deployable, config = load_bundle(bundle)
    images = shapes_inputs(2, config.preprocessing)
    prepared = prepare(deployable, images)
    assert isinstance(deployable, Localized)
    assert isinstance(prepared.deployable, Localized)
    norms = [each for each in prepared.deployable.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    assert norms == []
    with torch.no_grad():
        logits = deployable(images)
        expected, found = deployable.judge(images, logits), prepared.deployable.judge(images, logits)
    assert expected.std() > 1
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bundle", "ensemble"])
def test_every_runtime_gives_the_reliability_and_the_same_bits_of_the_mask(
    kind: str, request: pytest.FixtureRequest, photos: Photos, tmp_path: Path
) -> None:
    bundle: Path = request.getfixturevalue(kind)
    images = photos(4)
    expected = load_eager(bundle).infer(images, ("mask", "reliability"))
    assert len(np.unique(expected["reliability"])) > 50
    both = write_onnx(bundle, "mask+reliability", tmp_path / "both.onnx")
    plain = write_onnx(bundle, "mask", tmp_path / "plain.onnx")
    for load in (OrtPredictor, OpenVinoPredictor):
        found = load(both, threads=1).infer(images, ("mask", "reliability"))
        assert np.abs(found["reliability"].astype(int) - expected["reliability"]).max() <= 1
        assert np.array_equal(found["mask"], load(plain, threads=1).infer(images)["mask"])
        assert (found["mask"] == expected["mask"]).mean() > 0.9999

    deployable, config = load_bundle(bundle)
    prepared = prepare(deployable, shapes_inputs(1, config.preprocessing)).deployable
    errors = layer_errors(both, prepared, config.preprocessing, images)
    assert errors[-1].layer == LOGITS
    assert find_departure(errors, "fp32") is None
    weights = plain.stat().st_size / both.stat().st_size
    assert weights < 0.7 if kind == "bundle" else 0.95 < weights < 1  # a localizer, or a few operators


def test_the_agreement_in_a_file_is_that_of_the_branches(
    ensemble: Path, photos: Photos, tmp_path: Path
) -> None:
    images = photos(2)
    path = write_onnx(ensemble, "mask+reliability", tmp_path / "model.onnx")
    found = OrtPredictor(path, threads=1).infer(images, ("mask", "reliability"))
    model, config = load_bundle(ensemble)
    assert isinstance(model, FusedEnsemble)
    with torch.no_grad():
        inputs = normalize(torch.from_numpy(images).permute(0, 3, 1, 2), config.preprocessing)
        branches = [resize_logits(each(inputs).logits, (64, 64)).softmax(dim=1) for each in model.branches]
        mask = model(inputs).argmax(dim=1, keepdim=True)
        expected = torch.stack([each.gather(1, mask) for each in branches]).amin(dim=0).squeeze(1)
    reliability = np.interp(expected.numpy(), *zip(*KNOTS, strict=True))
    assert reliability.std() > 0.05
    assert np.abs(found["reliability"] / 255 - reliability).max() < 0.004
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    alone = tmp_path / "mask.onnx"
    assert nodes.count("Conv") == [
        node.op_type for node in onnx.load(write_onnx(ensemble, "mask", alone)).graph.node
    ].count("Conv")  # the branches run once


def test_a_branch_alone_and_other_weights_have_no_calibration(ensemble: Path, tmp_path: Path) -> None:
    for number, change in enumerate((Composition(branch="1"), Composition(fuse_weight=0.3))):
        composed = compose(ensemble, change, tmp_path / str(number), print)
        assert load_config(composed).reliability is None
        assert "reliability" not in load_eager(composed).available


def test_logits_alone_do_not_give_it(bundle: Path) -> None:
    temperature, localizer = CALIBRATIONS
    assert "reliability" in derivable(("logits",), temperature)
    assert "reliability" not in derivable(("logits",), localizer)
    assert "reliability" in derivable(("logits", "reliability"), localizer)
    with pytest.raises(BundleError, match=r"export again with --output mask\+reliability"):
        check_given(("logits",), ("reliability",), localizer)
    config = load_config(bundle)
    assert [kept_calibration(config, each) for each in ("mask", "logits")] == [None, None]
    assert kept_calibration(config, "mask+reliability") == localizer


def test_a_gate_changes_the_predictions_so_that_the_localizer_is_left_out(
    bundle: Path, classifier_bundle: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    update_config(bundle, provenance=load_config(classifier_bundle).provenance)
    gate = Composition(gate=classifier_bundle)
    gated, config = load_bundle(compose(bundle, gate, tmp_path / "gated", said.append))
    assert isinstance(gated, Gated)
    assert isinstance(gated.segmentation, Student)
    assert config.reliability is None
    assert "the error localizer is left out: it judges predictions without a gate" in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bundle", "ensemble"])
def test_an_export_compares_the_reliability_in_both_precisions(
    kind: str, request: pytest.FixtureRequest
) -> None:
    bundle: Path = request.getfixturevalue(kind)
    untrained = {"min_agreement": 0.99}  # in fp16, pixels of a random network are near ties
    report = export_bundle(bundle, ExportOptions(output="mask+reliability", images="shapes", **untrained))
    assert [each.name for each in report.artifacts] == ["model.onnx", "model.fp16.onnx"]
    for each in report.artifacts:
        assert each.parity is not None
        assert each.parity.passed
        assert set(each.parity.errors) == {"reliability"}
