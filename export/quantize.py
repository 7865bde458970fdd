"""int8: one calibration of an fp32 ONNX file, two quantized files with QuantizeLinear/DequantizeLinear pairs.

The file for CPUs has unsigned activations and int32 biases; TensorRT takes signed symmetric activations and
float biases only. Weights are int8 with a scale for each output channel. What stands before the first
convolution (normalisation) and after the last one (resize, averages and gates, arg-max) stays in fp32.
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

from zoo.export.layers import relative_error, run_model, with_outputs
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
"""Percentile and entropy keep histograms of all activations, which takes seconds an image."""

CHUNK = 4
"""Images whose activations are in memory at a time."""

PERCENTILE = 99.99
OPERATORS = ("Conv", "Add", "MaxPool", "Concat", "Relu", "Clip")
ACTIVATIONS: dict[Flavor, QuantType] = {"cpu": QuantType.QUInt8, "trt": QuantType.QInt8}
OPTIONS: dict[Flavor, dict[str, bool]] = {
    "cpu": {"QDQKeepRemovableActivations": True},
    "trt": {"QDQKeepRemovableActivations": True, "ActivationSymmetric": True, "QuantizeBias": False},
}
"""A ReLU that is taken into the range of its output would be lost where that is not quantized after all."""

INT8_NAMES: dict[Flavor, str] = {"cpu": ONNX_NAMES["int8"], "trt": TRT_ONNX_NAMES["int8"]}

MAX_EXCLUDED = 0.5
"""Share of the convolutions that may be left in fp32: with more, int8 gains little over fp16."""


class Sensitivity(NamedTuple):
    """How much is lost by quantizing what a convolution takes."""

    node: str
    error: float
    """Root mean square of the error of activations and weights, each relative to its values."""


def calibrate(onnx_path: Path, images: Sequence[NDArray[np.uint8]], method: Method, ranges: Path) -> None:
    """Write the range of every activation over real images.

    Args:
        onnx_path: the fp32 file.
        images: each (H, W, 3) uint8 at the network's size; see `HISTOGRAM_IMAGES`.
        method: how outliers count.
        ranges: file to write.
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
        onnx_path: the fp32 file.
        ranges: of `calibrate`, by the same method.
        method: see there.
        flavor: what runs it.
        excluded: names of nodes that stay in fp32.
        path: file to write.
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
    """Replace what an ONNX file says of itself, and remove what the quantizer noted."""
    model = onnx.load(path)
    model.ClearField("metadata_props")
    model.metadata_props.add(key=METADATA_KEY, value=metadata.model_dump_json())
    onnx.save(model, path)


def body(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes that may be quantized: convolutions, and what stands between them.

    Not the last convolution, whose output are the logits: with 8 bits they would tie.
    """
    after = set(_reached(model, forwards=True))
    before = set(_reached(model, forwards=False))
    return [
        node.name
        for node in model.graph.node
        if node.op_type in OPERATORS
        and node.name in before
        and (node.op_type == "Conv" or node.name in after)
    ]


def sensitivities(fp32_path: Path, int8_path: Path, images: NDArray[np.uint8]) -> list[Sensitivity]:
    """Return the convolutions of a quantized file, the one that loses most first.

    The error is that of its own input and weights, not that which earlier layers hand on.

    Args:
        fp32_path: the file before.
        int8_path: the file after, of any flavor.
        images: (B, H, W, 3) uint8.
    """
    model = onnx.load(int8_path)
    producers = {output: node for node in model.graph.node for output in node.output}
    original = {node.name: node for node in onnx.load(fp32_path).graph.node}
    weights = {value.name: value for value in onnx.load(fp32_path).graph.initializer}
    quantized = [node for node in model.graph.node if node.op_type == "Conv" and node.name in original]
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
    """Give layers that stay in fp32 the values that their neighbors get quantized."""
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
    """Keep the quantizer's progress lines and advice from the terminal."""
    logger = logging.getLogger()
    disabled = logger.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Images one by one, as ONNX Runtime asks for them."""

    def __init__(self, images: Sequence[NDArray[np.uint8]]) -> None:
        self.images: Iterator[NDArray[np.uint8]] = iter(images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        image = next(self.images, None)
        return None if image is None else {INPUT_NAME: image[None]}


def _reached(model: onnx.ModelProto, *, forwards: bool) -> Iterator[str]:
    """Yield the names of the nodes that a convolution leads to, or (backwards) that lead to one."""
    reached: set[str] = set()
    for node in model.graph.node if forwards else reversed(model.graph.node):
        come, go = (node.input, node.output) if forwards else (node.output, node.input)
        if not reached.isdisjoint(come):
            yield node.name
            reached.update(go)
        if node.op_type == "Conv":
            reached.update(go[:1])


class Ranges(NamedTuple):
    """How the ranges of activations were chosen."""

    method: Method
    scores: dict[Method, float]
    """Agreement with the model by method; empty if one was asked for."""


class Quantizer(NamedTuple):
    """What all int8 files of a model are made from."""

    fp32: Path
    """Its fp32 ONNX file."""
    images: CalibrationImages
    metadata: ArtifactMetadata
    """Of the int8 files."""
    folder: Path
    """A temporary one."""

    def build(self, method: Method, flavor: Flavor, excluded: tuple[str, ...] = ()) -> Path:
        """Return a quantized file in the temporary folder.

        Args:
            method: how ranges are taken from activations.
            flavor: what runs it.
            excluded: names of nodes that stay in fp32.
        """
        ranges = self.folder / f"{method}.json"
        if not ranges.is_file():
            calibrate(self.fp32, self.images.images, method, ranges)
        path = self.folder / INT8_NAMES[flavor]
        quantize(self.fp32, ranges, method, flavor, excluded, path)
        set_metadata(path, self.metadata)
        return path

    def best_method(self, score: Callable[[Path], float]) -> tuple[Method, dict[Method, float]]:
        """Return the method whose file scores highest, the first of equals, and the score of each."""
        scores = {method: score(self.build(method, "cpu")) for method in METHODS}
        return max(scores, key=lambda method: scores[method]), scores

    def facts(self, method: Method, scores: dict[Method, float], excluded: tuple[str, ...]) -> dict[str, Any]:
        """Return what the manifest says of the calibration."""
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
    """Return twice as many layers to leave in fp32, those that lose most; None if that were too many.

    Args:
        fp32: the file before quantization.
        quantized: a file without `excluded`.
        excluded: names of nodes that are in fp32 already.
        images: (B, H, W, 3) uint8.
    """
    ranked = [each.node for each in sensitivities(fp32, quantized, images)]
    count = max(1, len(excluded))
    if len(excluded) + count > MAX_EXCLUDED * (len(ranked) + len(excluded)):
        return None
    return *excluded, *ranked[:count]
