"""OpenVINO backend, which runs ONNX files on the CPU.

A file is compiled once for all shapes: on 2 cores at 512x512, compiling for one shape was not faster
(MobileNetV2 0.89 s, ResNet-50 1.36 s either way), and each new shape would cost 0.1 to 0.4 s.
"""

from __future__ import annotations

import importlib
import logging
import os
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zoo.errors import BundleError, InvalidImageError
from zoo.machine import fewer_cores, int8_overflows
from zoo.predictors.artifact import INPUT_NAME, METADATA_KEY, parse_metadata
from zoo.predictors.exported import ExportedPredictor
from zoo.predictors.limits import Limits, limits_of_sizes, smallest
from zoo.predictors.session import Session, forked
from zoo.predictors.signal_stack import same_signal_stack

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.predictors.artifact import ArtifactMetadata, Precision

log = logging.getLogger(__name__)

PACKAGE = "openvino"
DEVICE = "CPU"

HINTS: dict[Precision, str] = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32"}
"""Precision hint for layers that are not quantized; the default is bfloat16 on CPUs that have it."""

KERNELS: dict[Precision, frozenset[str]] = {
    "fp32": frozenset({"f32"}),
    "fp16": frozenset({"f32"}),
    "bf16": frozenset({"bf16"}),
    "int8": frozenset({"u8", "i8", "f32"}),  # layers may have been left in fp32
}
"""Allowed precisions of compiled layers."""

LAYERS = ("Convolution", "FullyConnected", "MatMul")
"""Prefixes of the types of layers with weights."""


class Compiled(NamedTuple):
    """A file compiled by OpenVINO."""

    model: Any
    request: Any
    """Runs one batch at a time. More requests gain nothing, as they share the model's one stream."""
    metadata: ArtifactMetadata
    limits: Limits
    kernels: str


class OpenVinoPredictor(ExportedPredictor):
    """An exported ONNX file on OpenVINO; threads take turns.

    Args:
        path: path of the file; the bundle is not needed.
        threads: number of CPU threads; None for one on each physical core.

    Raises:
        BundleError: a file that was not exported by zoo, OpenVINO is not installed, or it does not support
            the file's precision on this CPU.
    """

    backend = "openvino"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        if not path.is_file():
            raise BundleError(f"{path} does not exist, expected an ONNX file: zoo export --onnx makes one")
        self.api = load_openvino()
        self.session = Session(path, partial(compile_file, self.api, path, threads), alone=True)
        with self.session.use() as compiled:
            super().__init__(path, compiled.metadata)
            if compiled.metadata.precision == "int8" and int8_overflows():
                log.warning(
                    "%s: OpenVINO's int8 sums overflow on this processor, which has no VNNI: compare the "
                    "masks (zoo bench), or use backend ort",
                    path,
                )
            self.kernels, self._limits = compiled.kernels, compiled.limits
            self._sizes = compiled.model.input(0).partial_shape
        self.version = ".".join(self.api.__version__.split("-")[0].split(".")[:3])

    @property
    def description(self) -> str:
        """Return OpenVINO's version and the precision of the layers."""
        return f"OpenVINO {self.version} {DEVICE} {self.kernels}"

    @property
    def limits(self) -> Limits:
        """Return the shapes that the file accepts."""
        return self._limits

    def outputs(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return all outputs of the file for a batch, by name."""
        self.limits.check((images.shape[1], images.shape[2]))
        if not self._sizes.compatible(self.api.PartialShape(list(images.shape))):
            raise BundleError(
                f"{self.path} takes images of shape {self._sizes}, got {tuple(images.shape)}: export it again"
            )
        with self.session.use() as compiled:
            request = compiled.request
            try:
                request.start_async({INPUT_NAME: np.ascontiguousarray(images)}, share_inputs=True)
                request.wait()  # raises errors, which `infer` swallows with one thread
                return {
                    output.name: _copied(request.get_tensor(output.name), output.size(*images.shape[:3]))
                    for output in self.metadata.outputs
                }
            except RuntimeError as error:
                if self._refuses(images.shape):
                    raise InvalidImageError(
                        f"got an image of {images.shape[1]} x {images.shape[2]}, which OpenVINO refuses "
                        f"({_reason(error)}): crop or resize it, or use backend ort"
                    ) from error
                raise BundleError(
                    f"OpenVINO failed on images of shape {tuple(images.shape)}: {_reason(error)}"
                ) from error

    def _refuses(self, shape: tuple[int, ...]) -> bool:
        """Return whether the features of images of a shape are too small for a layer.

        Limits do not tell it of a file that resizes its images.
        """
        try:
            source = self.api.Core().read_model(self.path)
        except RuntimeError:
            return False
        try:
            source.reshape(list(shape))
        except RuntimeError:
            return True
        return False


def compile_file(api: Any, path: Path, threads: int | None) -> Compiled:
    """Return a compiled file.

    Args:
        api: module `openvino`.
        path: path of an ONNX file.
        threads: number of CPU threads; None for one on each physical core.

    Raises:
        BundleError: a file that was not exported by zoo, whose precision this CPU does not support, or a
            process that was forked after OpenVINO was loaded, where it would wait for threads of the parent.
    """
    if loading_process() != os.getpid():
        raise forked("OpenVINO")
    core = api.Core()
    try:
        source = core.read_model(path)
        place = ["framework", METADATA_KEY]
        text = source.get_rt_info(place).astype(str) if source.has_rt_info(place) else None
        metadata = parse_metadata(text, path)
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINTS[metadata.precision],
        }
        if threads := threads or fewer_cores():
            options["INFERENCE_NUM_THREADS"] = str(threads)
        with same_signal_stack():
            model = core.compile_model(source, DEVICE, options)
    except RuntimeError as error:
        raise BundleError(
            f"{path} cannot be loaded by OpenVINO ({_reason(error)}): export it again, or use another "
            f"precision or backend"
        ) from error
    kernels = check_kernels(model, path, metadata.precision)
    return Compiled(model, model.create_infer_request(), metadata, limits_of(source, metadata), kernels)


def limits_of(source: Any, metadata: ArtifactMetadata) -> Limits:
    """Return the shapes that a file accepts; the smallest is found by shape inference.

    It may be larger than in PyTorch: OpenVINO refuses images on which a window of pooling leaves the features
    (in ResNet-D, `ceil_mode`).

    Args:
        source: model of the file, whose input is reshaped.
        metadata: metadata of the file.
    """
    sizes = source.input(0).partial_shape
    limits = limits_of_sizes([None if size.is_dynamic else size.get_length() for size in sizes])
    if metadata.smallest is not None:
        limits = limits.raised(metadata.smallest)

    def takes(size: tuple[int, int]) -> bool:
        try:
            source.reshape([limits.low[0], *size, metadata.preprocessing.format.channels])
        except RuntimeError:
            return False
        return True

    return smallest(takes, limits)


def _copied(tensor: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a copy of an output, which the next batch overwrites.

    Raises:
        RuntimeError: an output of another shape than the batch has.
    """
    values: NDArray[Any] = tensor.data.copy()
    if values.shape != shape:
        raise RuntimeError(f"got an output of shape {values.shape}, expected {shape}")
    return values


def load_openvino() -> Any:
    """Return the module `openvino`.

    Raises:
        BundleError: OpenVINO is not installed.
    """
    loading_process()
    try:
        return importlib.import_module(PACKAGE)
    except ImportError as error:
        raise BundleError(
            f"backend openvino needs OpenVINO ({error}): pip install 'semiseg-zoo[openvino]'"
        ) from error


@cache
def loading_process() -> int:
    """Return the process that OpenVINO was first loaded in; a forked process inherits the answer."""
    return os.getpid()


def check_kernels(model: Any, path: Path, precision: Precision) -> str:
    """Return the precision of the layers of a compiled model, which OpenVINO decides.

    Args:
        model: compiled model.
        path: path of its file, for the message.
        precision: precision of its file.

    Raises:
        BundleError: a precision that differs from that of the file.
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
    """Return the last line of OpenVINO's message; the first ones name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
