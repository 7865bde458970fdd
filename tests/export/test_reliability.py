"""The reliability of calibrated models, by PyTorch and by exported files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.bundles import metadata_of, reliability_by
from tests.export.conftest import Network
from zoo.bundle.bundle import load_config
from zoo.bundle.reliability import Calibration
from zoo.errors import BundleError, ExportError
from zoo.export.graph.to_onnx import export_onnx
from zoo.export.options import ExportOptions
from zoo.export.pipeline import export_bundle, kept_calibration
from zoo.export.to_tensorrt import Target, build_engine, load_builder, make_profile, plan_engine
from zoo.predictors.eager import EagerPredictor, load_eager
from zoo.predictors.runtimes.openvino import OpenVinoPredictor
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.predictors.runtimes.ort_cuda import OrtCudaPredictor
from zoo.predictors.runtimes.trt_api import installed_flavors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Photos = Callable[..., NDArray[np.uint8]]

CALIBRATIONS = {
    "temperature": Calibration(score="temperature", temperature=0.05),
    "entropy": Calibration(score="entropy", knots=((0.0, 0.2), (0.01, 0.6), (0.9, 1.0))),
}
RUNTIMES = {
    "ort": lambda path: OrtPredictor(path, threads=1),
    "ort bound": lambda path: OrtCudaPredictor(path, "cpu"),
    "openvino": lambda path: OpenVinoPredictor(path, threads=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("score", CALIBRATIONS)
@pytest.mark.parametrize("output", ["mask+reliability", "logits"])
def test_every_runtime_gives_the_reliability_of_the_model(
    score: str, output: str, tiny_bundle: Path, photos: Photos, tmp_path: Path
) -> None:
    config, calibration = load_config(tiny_bundle), CALIBRATIONS[score]
    fitted = reliability_by(calibration)
    torch.manual_seed(0)
    network = Network(len(config.names))
    reference = EagerPredictor(network, config.model_copy(update={"reliability": fitted}))
    metadata = metadata_of(tiny_bundle, output=output, calibration=calibration)
    export_onnx(network, metadata, tmp_path / "model.onnx")
    images = photos(2)
    expected = reference.infer(images, ("mask", "reliability"))
    assert len(np.unique(expected["reliability"])) > 10
    for load in RUNTIMES.values():
        artifact = load(tmp_path / "model.onnx")
        found = artifact.infer(images, ("mask", "reliability"))
        assert found["reliability"].dtype == np.uint8
        assert np.abs(found["reliability"].astype(int) - expected["reliability"]).max() <= 1
        assert "reliability" in artifact.available


@pytest.mark.slow
@pytest.mark.skipif("rtx" not in installed_flavors(), reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize("score", CALIBRATIONS)
def test_tensorrt_builds_the_reliability(score: str, tiny_bundle: Path, tmp_path: Path) -> None:
    metadata = metadata_of(tiny_bundle, output="mask+reliability", calibration=CALIBRATIONS[score])
    path = tmp_path / "model.onnx"
    export_onnx(Network(len(metadata.names)), metadata, path)
    api = load_builder((86,))
    planned = plan_engine(api, path, metadata, Target(sm=(86,)), make_profile((64, 64), (1, 1, 1)))
    assert len(build_engine(api, path, planned)[0]) > 1000


def test_a_model_without_calibration_has_no_reliability(tiny_bundle: Path, photos: Photos) -> None:
    predictor = load_eager(tiny_bundle)
    assert "reliability" not in predictor.available
    with pytest.raises(BundleError, match="reliability needs a calibrated model, got one without"):
        predictor.infer(photos(1), ("mask", "reliability"))


def test_an_export_of_an_uncalibrated_bundle_fails_before_it_starts(tiny_bundle: Path) -> None:
    said: list[str] = []
    options = ExportOptions(output="mask+reliability")
    with pytest.raises(ExportError, match=rf"needs a calibrated model.* run zoo calibrate {tiny_bundle} "):
        export_bundle(tiny_bundle, options, said.append)
    assert not said


def test_only_files_that_need_a_calibration_hold_it(tiny_bundle: Path) -> None:
    calibration = CALIBRATIONS["entropy"]
    fitted = reliability_by(calibration)
    config = load_config(tiny_bundle).model_copy(update={"reliability": fitted})
    for output, expected in (("mask", None), ("mask+reliability", calibration), ("logits", calibration)):
        assert kept_calibration(config, output) == expected
