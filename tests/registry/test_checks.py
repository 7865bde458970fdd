"""What a bundle must be before it is used."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from zoo.errors import BundleError
from zoo.export.manifest import update_manifest
from zoo.registry.checks import check_bundle, onnx_faults
from zoo.registry.files import is_complete, our_files

if TYPE_CHECKING:
    from pathlib import Path


def relist(bundle: Path) -> None:
    """Let the manifest say what the files are now: only the further checks can find a fault."""
    update_manifest(bundle, {})


def test_a_bundle_as_it_was_made_passes_with_the_hash_of_every_file(bundle: Path) -> None:
    assert check_bundle(bundle).keys() == our_files(bundle).keys()
    assert is_complete(bundle)


@pytest.mark.parametrize(
    ("name", "data", "fault"),
    [
        ("model.safetensors", b"\x80\x04\x95pickle", "no safetensors file"),
        ("model.safetensors", b"", "no safetensors file"),
        ("config.json", b"{}", "not of this version"),
        ("config.json", b"not json", "not of this version"),
        ("model.onnx", b"no protobuf", "no ONNX file of zoo export"),
        ("model.onnx", b"", "no ONNX file of zoo export"),
        ("manifest.json", b"[]", "no manifest of this version"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(
    bundle: Path, name: str, data: bytes, fault: str
) -> None:
    (bundle / name).write_bytes(data)
    if name != "manifest.json":
        relist(bundle)
    with pytest.raises(BundleError, match=rf"{name}: {fault}") as error:
        check_bundle(bundle)
    assert "\n" not in str(error.value)


def test_a_file_that_the_manifest_does_not_list_is_refused_unless_it_is_a_figure(bundle: Path) -> None:
    (bundle / "benchmark").mkdir()
    (bundle / "benchmark" / "benchmark.json").write_text("{}")
    check_bundle(bundle)
    (bundle / "other.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"other\.onnx: not in the manifest"):
        check_bundle(bundle)


def test_artifacts_may_be_left_out_and_weights_may_not(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    assert "model.onnx" in check_bundle(bundle, artifacts=False)
    with pytest.raises(BundleError, match=r"model\.onnx: missing, though the manifest lists it"):
        check_bundle(bundle)
    (bundle / "README.md").unlink()
    with pytest.raises(BundleError, match=r"README\.md: missing"):
        check_bundle(bundle, artifacts=False)
    assert not is_complete(bundle)


def test_an_artifact_of_other_weights_is_refused(bundle: Path) -> None:
    save_file({"other": np.zeros(3, np.float32)}, bundle / "model.safetensors")
    relist(bundle)
    with pytest.raises(BundleError, match=r"model\.onnx: made from other weights"):
        check_bundle(bundle)


def model_of(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = ()) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1])
    mask = helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1])
    return helper.make_model(helper.make_graph(nodes, "g", [image], [mask], initializers))


def outside(location: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "weight")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return tensor


def branches(inner: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["image"], ["mask"], then_branch=inner, else_branch=inner)


CUSTOM = helper.make_node("Run", ["image"], ["mask"], domain="com.evil")
RELU = helper.make_node("Relu", ["image"], ["mask"])
CONSTANT: Any = helper.make_node("Constant", [], ["mask"], value=outside("/etc/passwd"))


@pytest.mark.parametrize(
    ("model", "faults"),
    [
        (model_of(RELU), []),
        (model_of(CUSTOM), ["operators of com.evil, expected standard ones alone"]),
        (
            model_of(branches(helper.make_graph([CUSTOM], "inner", [], []))),
            ["operators of com.evil, expected standard ones alone"],
        ),
        (
            model_of(RELU, initializers=(outside("../../etc/passwd"),)),
            ["weights outside the file, expected them inside"],
        ),
        (
            model_of(branches(helper.make_graph([RELU], "inner", [], [], [outside("weights.bin")]))),
            ["weights outside the file, expected them inside"],
        ),
        (model_of(CONSTANT), ["weights outside the file, expected them inside"]),
    ],
)
def test_operators_and_weights_are_looked_for_in_every_branch(
    model: onnx.ModelProto, faults: list[str]
) -> None:
    assert onnx_faults(model) == faults


def test_an_operator_of_a_function_in_the_file_is_found() -> None:
    model = model_of(helper.make_node("Mine", ["image"], ["mask"], domain="local"))
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("com.evil", 1)]
    model.functions.append(helper.make_function("local", "Mine", ["image"], ["mask"], [CUSTOM], opset))
    assert onnx_faults(model) == ["operators of com.evil, local, expected standard ones alone"]


def test_a_bundle_of_someone_else_is_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert not is_complete(tmp_path)
