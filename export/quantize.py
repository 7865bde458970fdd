"""int8 quantization: calibrates an fp32 ONNX file and inserts QuantizeLinear/DequantizeLinear pairs.

The file for CPUs has unsigned activations and int32 biases; TensorRT accepts only signed symmetric
activations and float biases. Weights are int8 with a scale per output channel. Everything before the first
convolution (normalization) and after the last one (resize, averages and gates, arg-max) stays in fp32.
"""

from __future__ import annotations

import io
import logging
import tempfile
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import onnx
from onnx import numpy_helper
from onnxruntime.quantization import (  # type: ignore[import-untyped]
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.calibrate import (  # type: ignore[import-untyped]
    create_calibrator,
    save_tensors_data,
)

from zoo.export.graph.layers import relative_error, run_model, with_outputs
from zoo.predictors.artifact import INPUT_NAME, METADATA_KEY, ONNX_NAMES, TRT_ONNX_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from zoo.export.calibrate import CalibrationImages
    from zoo.predictors.artifact import ArtifactMetadata


Method = Literal["minmax", "percentile", "entropy"]
Flavor = Literal["cpu", "trt"]

METHODS: dict[Method, CalibrationMethod] = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
HISTOGRAM_IMAGES = 32
"""Maximum number of images for percentile and entropy, whose histograms take seconds per image."""

CHUNK = 4
"""Number of images whose activations are in memory at a time."""

PERCENTILE = 99.99
LAYERS = ("Conv", "MatMul", "Gemm")
"""Operators with weights; `MatMul` and `Gemm` are linear layers if their second input is constant."""

OPERATORS = (*LAYERS, "Add", "MaxPool", "Concat", "Relu", "Clip")
ACTIVATIONS: dict[Flavor, QuantType] = {"cpu": QuantType.QUInt8, "trt": QuantType.QInt8}
OPTIONS: dict[Flavor, dict[str, bool]] = {
    "cpu": {"QDQKeepRemovableActivations": True, "MatMulConstBOnly": True},
    "trt": {
        "QDQKeepRemovableActivations": True,
        "MatMulConstBOnly": True,
        "ActivationSymmetric": True,
        "QuantizeBias": False,
    },
}
"""Quantizer options; a ReLU folded into its output's range would be lost if that stays in fp32."""

INT8_NAMES: dict[Flavor, str] = {"cpu": ONNX_NAMES["int8"], "trt": TRT_ONNX_NAMES["int8"]}

MAX_EXCLUDED = 0.5
"""Maximum share of layers kept in fp32: with more, int8 gains little over fp16."""


class Sensitivity(NamedTuple):
    """Error from quantizing the inputs of a layer."""

    node: str
    error: float
    """Root mean square of the relative errors of activations and weights."""


def calibrate(onnx_path: Path, images: Sequence[NDArray[np.uint8]], method: Method, ranges: Path) -> None:
    """Write the ranges of all activations over real images.

    Args:
        onnx_path: fp32 ONNX file.
        images: images, each (H, W, 3) uint8 at the network's size; see `HISTOGRAM_IMAGES`.
        method: calibration method, which determines how outliers count.
        ranges: output file.
    """
    if method != "minmax":
        images = images[:HISTOGRAM_IMAGES]
    options = {"symmetric": False} | ({"percentile": PERCENTILE} if method == "percentile" else {})
    with tempfile.TemporaryDirectory() as folder, _silent():
        calibrator = create_calibrator(
            onnx_path,
            OPERATORS,
            str(Path(folder) / "augmented.onnx"),
            calibrate_method=METHODS[method],
            extra_options=options,
        )
        for start in range(0, len(images), CHUNK):
            calibrator.collect_data(_Reader(images[start : start + CHUNK]))
        save_tensors_data(calibrator.compute_data(), ranges)


def quantize(
    onnx_path: Path, ranges: Path, method: Method, flavor: Flavor, excluded: Sequence[str], path: Path
) -> None:
    """Write a quantized file.

    Args:
        onnx_path: fp32 ONNX file.
        ranges: file written by `calibrate` with the same method.
        method: calibration method.
        flavor: target of the file.
        excluded: names of nodes to keep in fp32.
        path: output file.
    """
    nodes = [name for name in body(onnx.load(onnx_path)) if name not in set(excluded)]
    with _silent():
        quantize_static(
            onnx_path,
            path,
            None,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            per_channel=True,
            activation_type=ACTIVATIONS[flavor],
            weight_type=QuantType.QInt8,
            nodes_to_quantize=nodes,
            calibrate_method=METHODS[method],
            extra_options=OPTIONS[flavor],
            calibration_cache_path=ranges,
        )
    model = onnx.load(path)
    _feed_exactly(model, set(excluded))
    onnx.save(model, path)


def set_metadata(path: Path, metadata: ArtifactMetadata) -> None:
    """Replace the metadata of an ONNX file, and remove the quantizer's."""
    model = onnx.load(path)
    model.ClearField("metadata_props")
    model.metadata_props.add(key=METADATA_KEY, value=metadata.model_dump_json())
    onnx.save(model, path)


def body(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes that may be quantized: layers, and operations between convolutions.

    The last convolution is excluded, because 8-bit logits would tie. Where there are linear layers, sums and
    concatenations are quantized only next to a convolution: the sums of a transformer's residual stream have
    outliers, to which 8 bits would give most of their range.
    """
    after = set(_reached(model, forwards=True))
    before = set(_reached(model, forwards=False))
    nodes = [node for node in model.graph.node if node.op_type in OPERATORS and node.name in before]
    linear = _linear(model)
    beside = {name for node in model.graph.node if node.op_type == "Conv" for name in node.output}
    return [
        node.name
        for node in nodes
        if node.op_type == "Conv"
        or node.name in linear
        or (
            node.op_type not in LAYERS
            and node.name in after
            and (not linear or not beside.isdisjoint(node.input))
        )
    ]


def _linear(model: onnx.ModelProto) -> set[str]:
    """Return the names of the linear layers: products with a constant matrix."""
    matrices = {value.name for value in model.graph.initializer if len(value.dims) == 2}
    return {
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in matrices
    }


def sensitivities(fp32_path: Path, int8_path: Path, images: NDArray[np.uint8]) -> list[Sensitivity]:
    """Return the layers of a quantized file, by decreasing error.

    The error is that of a layer's own input and weights, without errors from earlier layers.

    Args:
        fp32_path: file before quantization.
        int8_path: file after quantization, for any target.
        images: (B, H, W, 3) uint8.
    """
    model = onnx.load(int8_path)
    producers = {output: node for node in model.graph.node for output in node.output}
    original = {node.name: node for node in onnx.load(fp32_path).graph.node}
    weights = {value.name: value for value in onnx.load(fp32_path).graph.initializer}
    quantized = [node for node in model.graph.node if node.op_type in LAYERS and node.name in original]
    pairs = {}
    for node in quantized:
        after = producers.get(node.input[0])
        if after is not None and after.op_type == "DequantizeLinear":
            pairs[node.name] = (producers[after.input[0]].input[0], after.output[0], node.input[1])
    names = list(dict.fromkeys(name for pair in pairs.values() for name in pair))
    values = dict(zip(names, run_model(with_outputs(model, names), images), strict=True))
    found = []
    for name, (before, after_name, weight) in pairs.items():
        activations = relative_error(values[after_name], values[before])
        exact = numpy_helper.to_array(weights[original[name].input[1]])
        found.append(
            Sensitivity(name, float((activations**2 + relative_error(values[weight], exact) ** 2) ** 0.5))
        )
    return sorted(found, key=lambda each: -each.error)


def _feed_exactly(model: onnx.ModelProto, excluded: set[str]) -> None:
    """Connect layers that stay in fp32 to the values before quantization."""
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        pair = producers.get(node.input[0]) if node.name in excluded else None
        if pair is not None and pair.op_type == "DequantizeLinear":
            node.input[0] = producers[pair.input[0]].input[0]
    for operator in ("DequantizeLinear", "QuantizeLinear"):
        used = {name for node in model.graph.node for name in node.input}
        for node in [node for node in model.graph.node if node.op_type == operator]:
            if node.output[0] not in used:
                model.graph.node.remove(node)


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress the quantizer's progress lines and advice."""
    logger = logging.getLogger()
    disabled = logger.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images, one at a time."""

    def __init__(self, images: Sequence[NDArray[np.uint8]]) -> None:
        self.images: Iterator[NDArray[np.uint8]] = iter(images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        image = next(self.images, None)
        return None if image is None else {INPUT_NAME: image[None]}


def _reached(model: onnx.ModelProto, *, forwards: bool) -> Iterator[str]:
    """Yield the names of the nodes after a convolution, or (backwards) before one."""
    reached: set[str] = set()
    for node in model.graph.node if forwards else reversed(model.graph.node):
        come, go = (node.input, node.output) if forwards else (node.output, node.input)
        if not reached.isdisjoint(come):
            yield node.name
            reached.update(go)
        if node.op_type == "Conv":
            reached.update(go[:1])


class Ranges(NamedTuple):
    """Selected calibration method, with its scores."""

    method: Method
    scores: dict[Method, float]
    """Agreement with the model by method; empty if the method was given."""


class Quantizer(NamedTuple):
    """Inputs shared by all int8 files of a model."""

    fp32: Path
    """Its fp32 ONNX file."""
    images: CalibrationImages
    metadata: ArtifactMetadata
    """Metadata of the int8 files."""
    folder: Path
    """Temporary folder."""

    def build(self, method: Method, flavor: Flavor, excluded: tuple[str, ...] = ()) -> Path:
        """Return a quantized file in the temporary folder.

        Args:
            method: calibration method.
            flavor: target of the file.
            excluded: names of nodes to keep in fp32.
        """
        ranges = self.folder / f"{method}.json"
        if not ranges.is_file():
            calibrate(self.fp32, self.images.images, method, ranges)
        path = self.folder / INT8_NAMES[flavor]
        quantize(self.fp32, ranges, method, flavor, excluded, path)
        set_metadata(path, self.metadata)
        return path

    def best_method(self, score: Callable[[Path], float]) -> tuple[Method, dict[Method, float]]:
        """Return the method whose file scores highest (the first among equals), and the score of each."""
        scores = {method: score(self.build(method, "cpu")) for method in METHODS}
        return max(scores, key=lambda method: scores[method]), scores

    def facts(self, method: Method, scores: dict[Method, float], excluded: tuple[str, ...]) -> dict[str, Any]:
        """Return the facts about the calibration for the manifest."""
        return {
            "calibration": {
                "images": self.images.origin,
                "sha256": self.images.sha256,
                "method": method,
                "agreement_by_method": scores,
                "excluded": list(excluded),
            }
        }


def more_excluded(
    fp32: Path, quantized: Path, excluded: tuple[str, ...], images: NDArray[np.uint8]
) -> tuple[str, ...] | None:
    """Return twice as many layers to keep in fp32, by decreasing error; None if those are too many.

    Args:
        fp32: file before quantization.
        quantized: quantized file with `excluded` in fp32.
        excluded: names of nodes that are already in fp32.
        images: (B, H, W, 3) uint8.
    """
    ranked = [each.node for each in sensitivities(fp32, quantized, images)]
    count = max(1, len(excluded))
    if len(excluded) + count > MAX_EXCLUDED * (len(ranked) + len(excluded)):
        return None
    return *excluded, *ranked[:count]
