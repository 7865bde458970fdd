"""Comparison of an exported file with PyTorch, layer by layer."""

from __future__ import annotations

import ast
import math
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import torch

from zoo.predictors.artifact import INPUT_NAME
from zoo.preprocess import normalize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from zoo.models.deployable import Deployable
    from zoo.predictors.artifact import Precision
    from zoo.preprocess import Preprocessing

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
PREFIX = "deployable."
"""Prefix of the deployable's modules inside an `ExportGraph`."""

ROOT = "graph"
"""Module name of nodes that belong to no module: normalization, final resize, arg-max."""

JUDGES = "localizer.", "agreement"
"""Beginnings of the names of the modules that judge the logits, of `Localized` and `FusedEnsemble`."""

NORMALIZED, LOGITS = "normalization", "final resize"
BOOKKEEPING = {"Shape", "Squeeze", "Unsqueeze", "Reshape", "Gather", "Cast", "Identity", "Range"}

TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "fp16": 0.03, "bf16": 0.2, "int8": 0.5}
"""Relative root-mean-square error above which a layer's output counts as different."""


class LayerError(NamedTuple):
    """Difference of one layer's output from PyTorch's."""

    layer: str
    """Path of the module in the deployable, `NORMALIZED`, or `LOGITS`."""
    operators: tuple[str, ...]
    """Operators that compute it in the file from the outputs of earlier layers."""
    error: float
    """Root mean square of the difference, divided by that of PyTorch's output."""

    def __str__(self) -> str:
        operators = f" ({', '.join(self.operators)})" if self.operators else ""
        size = f"relative error {self.error:.2g}"
        if not math.isfinite(self.error):
            size = "an output of another shape" if math.isinf(self.error) else "values that are not finite"
        return f"{self.layer}{operators}, {size}"


class _Value(NamedTuple):
    layer: str
    name: str
    """Name of the value in the ONNX graph."""


def name_nodes(model: onnx.ModelProto) -> None:
    """Name each node after its module, e.g. `network.decoder.fuse.0.0/Conv`.

    Args:
        model: model from the exporter, still with its metadata.
    """
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        notes = {entry.key: entry.value for entry in node.metadata_props}
        scopes = ["", "", *ast.literal_eval(notes.get(SCOPES_KEY, "[]"))]  # modules, then the operator
        module = scopes[-2].removeprefix(PREFIX) if scopes[-2].startswith(PREFIX) else ROOT
        name = f"{module}/{node.op_type}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}.{seen[name]}"


def find_departure(errors: list[LayerError], precision: Precision) -> LayerError | None:
    """Return the first layer whose output differs from PyTorch's, None if there is none."""
    tolerance = TOLERANCES[precision]
    return next((each for each in errors if not each.error <= tolerance), None)


def layer_errors(
    path: Path, deployable: Deployable, preprocessing: Preprocessing, images: NDArray[Any]
) -> list[LayerError]:
    """Return the error of each layer of a file, in order of execution, measured by ONNX Runtime on the CPU.

    Args:
        path: ONNX file from `export_onnx`, or one quantized from it.
        deployable: model prepared by `zoo.export.graph.fold`, the reference.
        preprocessing: reference preprocessing.
        images: (B, H, W, C) images.

    Returns:
        an empty list if the node names contain no module paths.
    """
    model = onnx.load(path)
    expected = _expected(deployable, preprocessing, images)
    values = [value for value in _values(model) if value.layer in expected]
    if not values:
        return []
    outputs = _run(model, [value.name for value in values], images)
    known = {value.name for value in values}
    return [
        LayerError(
            value.layer,
            _operators(model, value.name, known - {value.name}),
            relative_error(output, expected[value.layer]),
        )
        for value, output in zip(values, outputs, strict=True)
    ]


def relative_error(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the root mean square of the difference relative to `expected`; inf if shapes differ."""
    if got.shape != expected.shape:
        return float("inf")
    difference = got.astype(np.float64) - expected
    return float(np.sqrt((difference**2).mean() / max(1e-30, (expected.astype(np.float64) ** 2).mean())))


def with_outputs(model: onnx.ModelProto, names: list[str]) -> bytes:
    """Return a serialized copy of a model whose outputs are inner values of its graph."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.ClearField("output")
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    serialized: bytes = copy.SerializeToString()
    return serialized


def run_model(model: bytes, images: NDArray[Any]) -> list[NDArray[Any]]:
    """Return all outputs of a model on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # fused integer sums overflow without VNNI, and the option against it fails where inner values are outputs
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    outputs: list[NDArray[Any]] = session.run(None, {INPUT_NAME: images})
    return outputs


def _run(model: onnx.ModelProto, names: list[str], images: NDArray[Any]) -> list[NDArray[Any]]:
    return run_model(with_outputs(model, names), images)


def _values(model: onnx.ModelProto) -> list[_Value]:
    """Return the normalized image, the last value of each module, and the logits."""
    last: dict[str, str] = {}
    for node in model.graph.node:
        module, slash, _ = node.name.rpartition("/")
        if not slash:
            continue  # inserted by the quantizer
        if module.startswith(JUDGES):
            break  # judges the logits, which are complete
        if module != ROOT:
            if node.op_type not in BOOKKEEPING:
                last.setdefault(NORMALIZED, node.input[0])
            last.pop(module, None)
            last[module] = node.output[0]
        elif node.op_type == "Resize":
            last.pop(LOGITS, None)
            last[LOGITS] = node.output[0]
    return [_Value(layer, name) for layer, name in last.items()]


@torch.no_grad()
def _expected(
    deployable: Deployable, preprocessing: Preprocessing, images: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """Return PyTorch's output of every leaf module that runs once, by its path."""
    outputs: dict[str, list[NDArray[Any]]] = {}
    hooks = [
        module.register_forward_hook(_keep(outputs.setdefault(name, [])))
        for name, module in deployable.named_modules()
        if not list(module.children())
    ]
    normalized = normalize(torch.from_numpy(images.copy()).permute(0, 3, 1, 2), preprocessing)
    logits = deployable(normalized)
    for hook in hooks:
        hook.remove()
    once = {name: values[0] for name, values in outputs.items() if len(values) == 1}
    return {NORMALIZED: normalized.numpy(), **once, LOGITS: logits.numpy()}


def _keep(values: list[NDArray[Any]]) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(_: nn.Module, __: Any, output: Tensor) -> None:
        values.append(output.numpy(force=True).copy())  # a ReLU may overwrite it

    return hook


def _operators(model: onnx.ModelProto, name: str, known: set[str]) -> tuple[str, ...]:
    """Return the operators between known values and the named one, except those that handle shapes."""
    producers: Mapping[str, onnx.NodeProto] = {out: node for node in model.graph.node for out in node.output}
    found: dict[str, None] = {}
    pending, seen = [name], set(known)
    while pending:
        value = pending.pop()
        if value in seen or value not in producers:
            continue
        seen.add(value)
        node = producers[value]
        if node.op_type not in BOOKKEEPING:
            found[node.op_type] = None
        pending += node.input[:1] if node.op_type == "Resize" else node.input
    return tuple(reversed(found))
