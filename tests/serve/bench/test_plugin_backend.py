"""A backend that another package adds by one row: loaded, compared, measured, served on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import zoo
from zoo.errors import BundleError
from zoo.export.parity.compare import Images, compare
from zoo.export.parity.tolerance import GATES
from zoo.predictors.load import load_predictor
from zoo.serve.bench.choices import choices
from zoo.serve.bench.report.page import html
from zoo.serve.server.core.loading import ModelSource, candidates, load_best

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Install
    from tests.serve.conftest import ExportPixels

    Measure = Callable[..., Any]

MODULE = """
import onnx
from onnx.reference import ReferenceEvaluator

from zoo.predictors.artifact import INPUT_NAME, METADATA_KEY, parse_metadata
from zoo.predictors.backends import ONNX, BackendRow, load_onnx
from zoo.predictors.exported import ExportedPredictor


class ReferencePredictor(ExportedPredictor):
    backend = "reference"

    def __init__(self, path):
        model = onnx.load(path)
        texts = {each.key: each.value for each in model.metadata_props}
        super().__init__(path, parse_metadata(texts.get(METADATA_KEY), path))
        self.evaluator = ReferenceEvaluator(model)

    def outputs(self, images):
        names = [output.name for output in self.metadata.outputs]
        return dict(zip(names, self.evaluator.run(names, {INPUT_NAME: images}), strict=True))


ROW = BackendRow(
    lambda request: load_onnx(request, ReferencePredictor),
    {"cpu": "ONNX reference"},
    suffix=ONNX,
    precisions=("fp32",),
    packages={"onnx": ("onnx",)},
    color="red",
)
"""


@pytest.fixture(autouse=True)
def reference(install: Install) -> None:
    install(MODULE, backends={"reference": "ROW"})


def test_it_runs_a_file_and_the_file_of_a_bundle(onnx_bundle: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    expected = load_predictor(onnx_bundle, backend="ort", threads=1).predict(image)
    for path in (onnx_bundle, onnx_bundle / "model.onnx"):
        model = zoo.load(path, backend="reference", device="cpu")
        assert model.predictor.backend == "reference"
        assert np.array_equal(model(image), expected)
    with pytest.raises(BundleError, match="expected ort or openvino or reference"):
        load_predictor(onnx_bundle / "model.onnx", backend="eager")


def test_it_is_measured_beside_the_others_in_its_color(onnx_bundle: Path, measure: Measure) -> None:
    report = measure(onnx_bundle, backends=("reference",))
    rows = {row.name: row for row in report.rows}
    assert next(iter(rows)) == "eager"
    row = rows["reference:fp32"]
    assert row.end_to_end_ms is not None, row.reason
    assert row.speedup is not None
    assert report.versions["onnx"]
    page = html(report)
    assert "fill: var(--red)" in page
    assert "reference:fp32" in [choice.name for choice, _ in choices(onnx_bundle, None)]


def test_it_is_served_on_request_only(onnx_bundle: Path) -> None:
    assert "reference" not in {each.backend for each in candidates(ModelSource("m", onnx_bundle))}
    loaded = load_best(ModelSource("m", onnx_bundle, backend="reference"))
    assert (loaded.predictor.backend, loaded.reason) == ("reference", "ONNX reference; as requested")


def test_it_passes_the_gate_of_an_export(export_pixels: ExportPixels, tmp_path: Path) -> None:
    path, eager = export_pixels(tmp_path, "mask")
    random = np.random.default_rng(0)
    images = Images(tuple(random.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(2)), "noise")
    artifact = load_predictor(path, backend="reference")
    parity = compare(artifact, eager, images, [(1, 64, 64), (2, 48, 37)], GATES["fp32"])
    assert parity.agrees, parity
    assert parity.runtime == "reference"
