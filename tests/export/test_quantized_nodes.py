"""Which nodes of a graph are quantized to int8."""

from __future__ import annotations

import numpy as np
import onnx
from onnx.helper import make_graph, make_model, make_node, make_tensor_value_info
from onnx.numpy_helper import from_array

from zoo.export.quantize import body

MATRIX = from_array(np.eye(4, dtype=np.float32), "matrix")
KERNEL = from_array(np.zeros((4, 4, 1, 1), np.float32), "kernel")
TABLE = from_array(np.zeros((1, 4, 4, 4), np.float32), "table")
BIAS = from_array(np.zeros(4, np.float32), "bias")
FIRST, LAST = ("Conv", ("image", "kernel"), "first"), ("Conv", ("fused", "kernel"), "logits")
FUSED = ("Add", ("head", "head"), "fused")


def graph(*rows: tuple[str, tuple[str, ...], str]) -> onnx.ModelProto:
    """Return a model of rows of operator, inputs and output, which is also the node's name."""
    nodes = [make_node(kind, inputs, [output], name=output) for kind, inputs, output in rows]
    image = make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 4, 4, 4])
    logits = make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)
    return make_model(make_graph(nodes, "graph", [image], [logits], [MATRIX, KERNEL, TABLE, BIAS]))


def test_linear_layers_of_a_transformer_are_quantized_and_its_residual_stream_is_not() -> None:
    model = graph(
        FIRST,
        ("MatMul", ("first", "matrix"), "linear"),
        ("Add", ("linear", "bias"), "biased"),
        ("MatMul", ("biased", "biased"), "attention"),  # no weights
        ("MatMul", ("attention", "table"), "positions"),  # no layer
        ("Add", ("positions", "biased"), "stream"),
        ("Conv", ("stream", "kernel"), "head"),
        FUSED,
        LAST,
    )
    assert body(model) == ["first", "linear", "head", "fused"]


def test_sums_of_a_convolutional_network_are_quantized() -> None:
    rows = [FIRST, ("Relu", ("first",), "relu"), ("Add", ("relu", "relu"), "sum")]
    model = graph(*rows, ("Conv", ("sum", "kernel"), "head"), FUSED, LAST)
    assert body(model) == ["first", "relu", "sum", "head", "fused"]
