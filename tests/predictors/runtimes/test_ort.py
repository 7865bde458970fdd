from __future__ import annotations

import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

from zoo.errors import BundleError, InvalidImageError
from zoo.predictors.runtimes.ort import EXACT_INT8, OrtPredictor, open_session

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


@pytest.mark.parametrize(
    ("flags", "machine", "is_exact"),
    [
        ({"avx2"}, "x86_64", True),
        ({"avx2", "avx_vnni"}, "x86_64", False),
        ({"avx512_vnni"}, "x86_64", False),
        ({"asimddp"}, "aarch64", False),
    ],
)
def test_only_a_processor_whose_int8_sums_overflow_pays_for_exact_ones(
    write_onnx: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: set[str],
    machine: str,
    is_exact: bool,
) -> None:
    monkeypatch.setattr("zoo.machine.cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr("platform.machine", lambda: machine)
    options = open_session(write_onnx(tmp_path / "model.onnx"), "cpu").get_session_options()
    with nullcontext() if is_exact else pytest.raises(RuntimeError, match="does not have"):
        assert options.get_session_config_entry(EXACT_INT8[0]) == "1"


def test_sums_of_int8_products_are_exact_on_every_processor(tmp_path: Path) -> None:
    constants = {
        "one": np.float32(1),
        "step": np.float32(127 * 64),
        "zero": np.uint8(0),
        "kernel": np.full((1, 64, 1, 1), 127, np.int8),  # with 255, two products exceed 16 bits
    }
    rows = [
        ("DequantizeLinear", ["image", "one", "zero"], "pixels"),
        ("DequantizeLinear", ["kernel", "one"], "weights"),
        ("Conv", ["pixels", "weights"], "sums"),
        ("QuantizeLinear", ["sums", "step", "zero"], "levels"),
    ]
    shapes = [("image", [1, 64, 3, 3]), ("levels", [1, 1, 3, 3])]
    given, made = (make_tensor_value_info(name, onnx.TensorProto.UINT8, shape) for name, shape in shapes)
    graph = make_graph(
        [make_node(kind, inputs, [output]) for kind, inputs, output in rows],
        "graph",
        [given],
        [made],
        [from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(make_model(graph, opset_imports=[make_opsetid("", 18)], ir_version=8), tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx", "cpu")
    (levels,) = session.run(None, {"image": np.full((1, 64, 3, 3), 255, np.uint8)})
    assert np.unique(levels).tolist() == [255]
