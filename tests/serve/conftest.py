"""A bundle with an ONNX file that is quick to make."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest
from onnx import TensorProto, helper

from zoo.bundle import WEIGHTS_NAME, load_config
from zoo.predictors.artifact import INPUT_NAME, METADATA_KEY, ArtifactMetadata, sha256

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def onnx_bundle(bundle_copy: Path) -> Path:
    """Return a bundle whose `model.onnx` says class 1 where red is bright, unlike the network beside it."""
    config = load_config(bundle_copy)
    metadata = ArtifactMetadata(
        names=config.names,
        palette=config.palette,
        preprocessing=config.preprocessing,
        precision="fp32",
        weights_sha256=sha256(bundle_copy / WEIGHTS_NAME),
    )
    constants = {"zero": 0, "one": 1, "last": 3}
    nodes = [
        *(
            helper.make_node(
                "Constant", [], [name], value=helper.make_tensor(name, TensorProto.INT64, [1], [value])
            )
            for name, value in constants.items()
        ),
        helper.make_node(
            "Constant", [], ["bright"], value=helper.make_tensor("bright", TensorProto.UINT8, [], [127])
        ),
        helper.make_node("Slice", [INPUT_NAME, "zero", "one", "last"], ["red"]),
        helper.make_node("Squeeze", ["red", "last"], ["plane"]),
        helper.make_node("Greater", ["plane", "bright"], ["is_bright"]),
        helper.make_node("Cast", ["is_bright"], ["mask"], to=TensorProto.UINT8),
    ]
    image = helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["b", "h", "w", 3])
    mask = helper.make_tensor_value_info("mask", TensorProto.UINT8, ["b", "h", "w"])
    model = helper.make_model(
        helper.make_graph(nodes, "bright", [image], [mask]), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 10
    helper.set_model_props(model, {METADATA_KEY: metadata.model_dump_json()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, bundle_copy / "model.onnx")
    return bundle_copy
