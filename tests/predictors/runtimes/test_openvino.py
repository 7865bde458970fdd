from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from zoo.errors import BundleError, InvalidImageError
from zoo.predictors.artifact import METADATA_KEY
from zoo.predictors.runtimes.openvino import OpenVinoPredictor
from zoo.predictors.runtimes.ort import OrtPredictor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    WriteLinear = Callable[..., Path]

pytest.importorskip("openvino")


class OneImage(CalibrationDataReader):
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.batches = iter([{"image": images}])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self.batches, None)


def quantized(path: Path, images: NDArray[np.uint8]) -> Path:
    """Write the int8 file of an fp32 one, with its metadata, and return its path."""
    made = path.with_name("model.int8.onnx")
    options: dict[str, Any] = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(path, made, OneImage(images), nodes_to_quantize=["conv"], **options)
    model = onnx.load(made)
    text = next(entry.value for entry in onnx.load(path).metadata_props if entry.key == METADATA_KEY)
    onnx.helper.set_model_props(model, {METADATA_KEY: text.replace('"fp32"', '"int8"')})
    onnx.save(model, made)
    return made


def test_any_shape_is_run_as_by_onnx_runtime(write_linear: WriteLinear, tmp_path: Path) -> None:
    path = write_linear(tmp_path / "model.onnx")
    predictor, reference = OpenVinoPredictor(path, threads=1), OrtPredictor(path, threads=1)
    random = np.random.default_rng(0)
    for shape in ((1, 16, 24), (2, 33, 47), (1, 47, 33), (3, 8, 8)):
        images = random.integers(0, 256, (*shape, 3), np.uint8)
        assert np.array_equal(predictor.run(images), reference.run(images))


def test_an_fp32_file_is_not_run_in_bfloat16(write_linear: WriteLinear, tmp_path: Path) -> None:
    predictor = OpenVinoPredictor(write_linear(tmp_path / "model.onnx"), threads=1)
    assert predictor.description.startswith("OpenVINO 20")
    assert predictor.description.endswith("CPU f32")
    with predictor.session.use() as compiled:
        assert compiled.model.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
        assert compiled.model.get_property("INFERENCE_NUM_THREADS") == 1
        assert str(compiled.model.get_property("PERFORMANCE_HINT")).endswith("LATENCY")


def test_an_int8_file_is_run_in_int8(
    write_linear: WriteLinear, noise: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = quantized(write_linear(tmp_path / "model.onnx"), noise)
    predictor = OpenVinoPredictor(path, threads=1)
    assert predictor.kernels in ("u8", "i8")
    assert (predictor.run(noise) == OrtPredictor(path).run(noise)).mean() > 0.99


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_kernels_of_another_precision_than_the_files_are_an_error(
    write_linear: WriteLinear, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_linear(tmp_path / "model.onnx", precision=precision)  # which is in truth an fp32 file
    monkeypatch.setitem(sys.modules["zoo.predictors.runtimes.openvino"].HINTS, precision, "f32")
    with pytest.raises(BundleError, match=rf"layers of .* in f32, expected {precision}: this CPU"):
        OpenVinoPredictor(path)


def test_a_shape_that_the_file_does_not_take_is_an_error(write_linear: WriteLinear, tmp_path: Path) -> None:
    predictor = OpenVinoPredictor(write_linear(tmp_path / "model.onnx", height=64))
    with pytest.raises(InvalidImageError, match=r"got an image of 63 x 64, expected 64 x 1\.\.any: crop or"):
        predictor.run(np.zeros((1, 63, 64, 3), np.uint8))
    with pytest.raises(BundleError, match=r"takes images of shape \[\?,64,\?,3\], got \(1, 64, 64, 4\)"):
        predictor.run(np.zeros((1, 64, 64, 4), np.uint8))


def test_a_file_without_our_metadata_is_refused(write_onnx: Any, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx", metadata="")
    with pytest.raises(BundleError, match=r"has no 'zoo' metadata .* expected a file made by zoo export"):
        OpenVinoPredictor(path)


def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"cannot be loaded by OpenVINO \(Unable to read the model"):
        OpenVinoPredictor(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx does not exist"):
        OpenVinoPredictor(tmp_path / "model.onnx")


def test_without_the_package_its_extra_is_named(
    write_linear: WriteLinear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BundleError, match=r"needs OpenVINO .*: pip install 'semiseg-zoo\[openvino\]'"):
        OpenVinoPredictor(write_linear(tmp_path / "model.onnx"))
