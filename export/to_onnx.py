"""Export of a deployable to ONNX, with dynamic batch, height and width, and metadata."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, NamedTuple

import onnx
import torch
from timm.models import is_model_in_modules
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from zoo.errors import ExportError
from zoo.export.graph import ExportGraph
from zoo.export.layers import name_nodes
from zoo.export.resample import ResampleByProducts
from zoo.export.same_padding import same_padding_as_attribute
from zoo.models.encoder import SHIFTED_WINDOWS
from zoo.predictors.artifact import INPUT_NAME, METADATA_KEY, ArtifactMetadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from zoo.models.deployable import Deployable
    from zoo.predictors.artifact import Precision

OPSET = 18  # later opsets give the same graph, but ONNX Runtime's CUDA provider supported their Resize late
BF16_OPSET = 22  # first opset with bfloat16 convolutions
SAMPLE_SHAPE = (2, 97, 131)  # different, not 1 and not round, so that none is specialized
DYNAMIC_DIMS = {0: "b", 1: "h", 2: "w"}
REASON_LENGTH = 300
CHATTY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


class OnnxFacts(NamedTuple):
    """Input and outputs of an ONNX file."""

    opset: int
    input: str
    """Name, element type and sizes, e.g. `image uint8(b, h, w, 3)`."""
    output: str

    def __str__(self) -> str:
        return f"{self.input} -> {self.output} in opset {self.opset}"


def export_onnx(deployable: Deployable, metadata: ArtifactMetadata, path: Path) -> OnnxFacts:
    """Write an ONNX file that is checked but not yet compared with the model, and return its facts.

    Args:
        deployable: model prepared by `zoo.export.fold`.
        metadata: metadata to store in the file.
        path: output path.

    Raises:
        ExportError: the exporter refused the model, or its graph is not the requested one.
    """
    _check_windows(deployable)
    graph = ExportGraph(deployable, metadata)
    same_padding_as_attribute(graph)
    sample = torch.from_numpy(metadata.blank(SAMPLE_SHAPE))
    with _silent(), ResampleByProducts(), PlainAttention():
        try:
            program = torch.onnx.export(
                graph,
                (sample,),
                dynamo=True,
                opset_version=opset_of(metadata.precision),
                input_names=[INPUT_NAME],
                output_names=[output.name for output in metadata.outputs],
                dynamic_shapes={INPUT_NAME: DYNAMIC_DIMS},
                verbose=False,
            )
        except (torch.onnx.OnnxExporterError, RuntimeError) as error:
            raise ExportError(
                f"the network cannot be exported to ONNX ({_reason(error)}): "
                f"its encoder must take any batch size, height and width"
            ) from error
    assert program is not None
    model = program.model_proto
    name_nodes(model)
    strip(model)
    model.metadata_props.add(key=METADATA_KEY, value=metadata.model_dump_json())
    onnx.save(model, path)
    return check_onnx(path, metadata)


class PlainAttention(TorchFunctionMode):
    """While it is active, attention is computed in the forms that the exporter gets right.

    It refuses attention over more than four dimensions, and gets relative positions, a mask, wrong.
    """

    def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return what `func` returns."""
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value, *rest = args
        mask = rest[0] if rest else kwargs.get("attn_mask")
        if mask is not None:
            return _masked_attention(query, key, value, mask, kwargs.get("scale"))
        if query.ndim <= 4:
            return func(*args, **kwargs)
        attended = func(*(each.flatten(0, each.ndim - 4) for each in args[:3]), *rest, **kwargs)
        return attended.reshape(*query.shape[:-1], value.shape[-1])


def _masked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None) -> Tensor:
    """Return what `scaled_dot_product_attention` returns, without dropout, as two products of matrices.

    Args:
        query: (..., L, D) float.
        key: (..., S, D) float.
        value: (..., S, C) float.
        mask: broadcast to (..., L, S): true where to attend, or float, added before the softmax.
        scale: factor on the products; None for the usual one over the square root of D.
    """
    weights = query * (scale or query.shape[-1] ** -0.5) @ key.transpose(-2, -1)  # (..., L, S)
    weights = weights.where(mask, -torch.inf) if mask.dtype == torch.bool else weights + mask
    return weights.softmax(dim=-1) @ value


def _check_windows(deployable: Deployable) -> None:
    """Raise for a Swin transformer that runs at any image size.

    The sizes of its shifted windows become symbolic conditions that nest from block to block, and
    `torch.export` takes hours to simplify them.

    Raises:
        ExportError: the model contains such a Swin transformer.
    """
    for network in deployable.config.networks:
        is_shifted = is_model_in_modules(network.encoder, SHIFTED_WINDOWS)
        if network.encoder_size is None and is_shifted:
            raise ExportError(
                f"torch.export does not finish with the shifted windows of {network.encoder} at any size: "
                f"train it at one (network.encoder_size, set by default), or use --backend eager"
            )


def opset_of(precision: Precision) -> int:
    """Return the ONNX opset of a precision."""
    return BF16_OPSET if precision == "bf16" else OPSET


def strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes on the traced code: stack traces with paths and source lines."""
    graph = model.graph
    holders = [model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for holder in holders:
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")


def check_onnx(path: Path, metadata: ArtifactMetadata) -> OnnxFacts:
    """Return the facts of a file after checking that it is valid and agrees with `metadata`.

    Raises:
        ExportError: the file is invalid, or differs from `metadata`.
    """
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {_reason(error)}") from error
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    norms = [node.name for node in graph.node if node.op_type == "BatchNormalization"]
    if norms:
        raise ExportError(f"the exported graph holds BatchNormalization {norms[0]}, expected it folded")
    format_ = metadata.preprocessing.format
    expected = OnnxFacts(
        opset=opset_of(metadata.precision),
        input=_signature(INPUT_NAME, format_.dtype, ("b", "h", "w", format_.channels)),
        output=" and ".join(
            _signature(output.name, output.dtype, output.size("b", "h", "w")) for output in metadata.outputs
        ),
    )
    facts = OnnxFacts(model.opset_import[0].version, _describe(graph.input), _describe(graph.output))
    if facts != expected:
        raise ExportError(
            f"the exported graph is {facts}, expected {expected}: the model's code froze a size"
        )
    return facts


def _signature(name: str, dtype: str, dims: tuple[str | int, ...]) -> str:
    return f"{name} {dtype}({', '.join(map(str, dims))})"


def _describe(values: Iterable[onnx.ValueInfoProto]) -> str:
    return " and ".join(
        _signature(
            value.name,
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim),
        )
        for value in values
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress the exporter's progress lines, remarks and warnings."""
    loggers = [logging.getLogger(name) for name in CHATTY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: Exception) -> str:
    """Return the beginning of the innermost cause, on one line."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return " ".join(str(error).split())[:REASON_LENGTH] or type(error).__name__
