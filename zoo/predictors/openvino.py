"""An ONNX file run by OpenVINO on the CPU.

It is compiled once for all shapes: on 2 cores at 512x512 a compilation for one shape was not faster
(MobileNetV2 0.89 s, ResNet-50 1.36 s either way), and each new shape would cost 0.1 to 0.4 s.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import BundleError
from zoo.predictors.artifact import INPUT_NAME, METADATA_KEY, parse_metadata
from zoo.predictors.exported import ExportedPredictor
from zoo.predictors.limits import limits_of_sizes
from zoo.predictors.signal_stack import same_signal_stack

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.predictors.artifact import Precision
    from zoo.predictors.limits import Limits

PACKAGE = "openvino"
DEVICE = "CPU"

HINTS: dict[Precision, str] = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32"}
"""Of what is not quantized. Without a hint it is bfloat16 on a CPU that has it, whatever the file says."""

KERNELS: dict[Precision, frozenset[str]] = {
    "fp32": frozenset({"f32"}),
    "fp16": frozenset({"f32"}),
    "bf16": frozenset({"bf16"}),
    "int8": frozenset({"u8", "i8", "f32"}),  # layers may have been left in fp32
}
"""What layers may be compiled to."""

LAYERS = ("Convolution", "FullyConnected", "MatMul")
"""Beginnings of the types of layers that have weights."""


class OpenVinoPredictor(ExportedPredictor):
    """An ONNX file that `zoo export` made.

    Args:
        path: of the file; the bundle is not needed.
        threads: of the CPU; None for one on each physical core.

    Raises:
        BundleError: not such a file, no OpenVINO, or one that does not compute in the file's precision here.
    """

    backend = "openvino"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        if not path.is_file():
            raise BundleError(f"{path} does not exist, expected an ONNX file: zoo export --onnx makes one")
        self.api = load_openvino()
        core = self.api.Core()
        try:
            model = core.read_model(path)
            place = ["framework", METADATA_KEY]
            text = model.get_rt_info(place).astype(str) if model.has_rt_info(place) else None
            super().__init__(path, parse_metadata(text, path))
            options = {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": HINTS[self.metadata.precision],
            }
            if threads is not None:
                options["INFERENCE_NUM_THREADS"] = str(threads)
            with same_signal_stack():
                self.model = core.compile_model(model, DEVICE, options)
        except RuntimeError as error:
            raise BundleError(
                f"{path} cannot be loaded by OpenVINO ({_reason(error)}): export it again, or use another "
                f"precision or backend"
            ) from error
        self.version = ".".join(self.api.__version__.split("-")[0].split(".")[:3])
        self.kernels = check_kernels(self.model, path, self.metadata.precision)
        self.request = self.model.create_infer_request()

    @property
    def description(self) -> str:
        """Return OpenVINO's version and what the layers compute in."""
        return f"OpenVINO {self.version} {DEVICE} {self.kernels}"

    @property
    def limits(self) -> Limits:
        """Return the shapes that the file takes."""
        sizes = self.model.input(0).partial_shape
        return limits_of_sizes([None if size.is_dynamic else size.get_length() for size in sizes])

    def outputs(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Return what the file gives for a batch, by name."""
        sizes = self.model.input(0).partial_shape
        if not sizes.compatible(self.api.PartialShape(list(images.shape))):
            raise BundleError(
                f"{self.path} takes images of shape {sizes}, got {tuple(images.shape)}: export it again"
            )
        try:
            values = self.request.infer({INPUT_NAME: np.ascontiguousarray(images)}, share_inputs=True)
        except RuntimeError as error:
            raise BundleError(
                f"OpenVINO failed on images of shape {tuple(images.shape)}: {_reason(error)}"
            ) from error
        return {output.name: values[output.name] for output in self.metadata.outputs}


def load_openvino() -> Any:
    """Return the package.

    Raises:
        BundleError: it is not installed.
    """
    try:
        return importlib.import_module(PACKAGE)
    except ImportError as error:
        raise BundleError(
            f"backend openvino needs OpenVINO ({error}): pip install 'semiseg-zoo[openvino]'"
        ) from error


def check_kernels(model: Any, path: Path, precision: Precision) -> str:
    """Return what the layers of a compiled model compute in, which OpenVINO decides.

    Args:
        model: compiled.
        path: of its file, for the message.
        precision: of its file.

    Raises:
        BundleError: something else than the file says.
    """
    nodes = [node.get_rt_info() for node in model.get_runtime_model().get_ops()]
    found = {
        info["runtimePrecision"].astype(str)
        for info in nodes
        if info["layerType"].astype(str).startswith(LAYERS)
    }
    wrong = found - KERNELS[precision]
    if wrong or (precision == "int8" and found == {"f32"}):
        raise BundleError(
            f"OpenVINO computes the layers of {path} in {', '.join(sorted(found))}, expected "
            f"{precision}: this CPU lacks the instructions for it, use another precision or backend"
        )
    return "+".join(sorted(found)) or HINTS[precision]


def _reason(error: Exception) -> str:
    """Return the last line of OpenVINO's message: the first ones name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
