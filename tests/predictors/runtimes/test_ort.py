from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from zoo.errors import BundleError, InvalidImageError
from zoo.predictors.runtimes.ort import OrtPredictor

if TYPE_CHECKING:
    from pathlib import Path


def test_an_onnx_file_alone_predicts_with_its_classes(write_onnx: Any, tmp_path: Path) -> None:
    predictor = OrtPredictor(write_onnx(tmp_path / "model.onnx"), threads=1)
    image = np.zeros((30, 90, 3), np.uint8)
    image[:, 45:] = 200
    mask = predictor.predict(image)
    assert mask.dtype == np.uint8
    assert mask.shape == (30, 90)
    assert mask[:, :40].max() == 0
    assert mask[:, 50:].min() == 1
    assert predictor.classes.names == ("dark", "bright")
    assert predictor.logits(image[None]) is None
    assert "CPUExecutionProvider" in predictor.description


def test_a_file_without_our_metadata_is_refused(write_onnx: Any, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx", metadata="")
    with pytest.raises(BundleError, match=r"has no 'zoo' metadata .* expected a file made by zoo export"):
        OrtPredictor(path)


@pytest.mark.parametrize("change", [{"precision": "int3"}, {"names": None}, {"surprise": 1}, {"format": 2}])
def test_metadata_of_another_version_are_refused(
    write_onnx: Any, tmp_path: Path, change: dict[str, object]
) -> None:
    path = write_onnx(tmp_path / "model.onnx")
    known = json.loads(OrtPredictor(path).metadata.model_dump_json())
    path = write_onnx(path, metadata=json.dumps({**known, **change}))
    with pytest.raises(BundleError, match=f"metadata: {next(iter(change))}.*export the bundle again"):
        OrtPredictor(path)


def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(
        BundleError, match=r"cannot be loaded by ONNX Runtime \(.+\): export it again, or use another"
    ):
        OrtPredictor(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx does not exist"):
        OrtPredictor(tmp_path / "model.onnx")


def test_a_shape_that_the_file_does_not_take_is_an_error(write_onnx: Any, tmp_path: Path) -> None:
    predictor = OrtPredictor(write_onnx(tmp_path / "model.onnx", height=64))
    with pytest.raises(InvalidImageError, match=r"got an image of 63 x 64, expected 64 x 1\.\.any: crop or"):
        predictor.run(np.zeros((1, 63, 64, 3), np.uint8))
    with pytest.raises(BundleError, match=r"shape \(1, 64, 64, 4\).*invalid dimensions"):
        predictor.run(np.zeros((1, 64, 64, 4), np.uint8))
