"""An ONNX file run by OpenVINO on the CPU.

It is compiled once for all shapes: on 2 cores at 512x512 a compilation for one shape was not faster
(MobileNetV2 0.89 s, ResNet-50 1.36 s either way), and each new shape would cost 0.1 to 0.4 s.
"""

from __future__ import annotations

import importlib
import os
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zoo.errors import BundleError
from zoo.predictors.artifact import INPUT_NAME, METADATA_KEY, parse_metadata
from zoo.predictors.exported import ExportedPredictor
from zoo.predictors.limits import Limits, limits_of_sizes, smallest
from zoo.predictors.session import Session
from zoo.predictors.signal_stack import same_signal_stack
from zoo.predictors.upload import forked

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.predictors.artifact import ArtifactMetadata, Precision

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


class Compiled(NamedTuple):
    """A file as OpenVINO runs it."""

    model: Any
    request: Any
    """Runs one batch at a time. More requests gain nothing: they wait for the one stream of the model."""
    metadata: ArtifactMetadata
    limits: Limits
    kernels: str


class OpenVinoPredictor(ExportedPredictor):
    """An ONNX file that `zoo export` made; threads take turns.

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
        self.session = Session(path, partial(compile_file, self.api, path, threads), alone=True)
        with self.session.use() as compiled:
            super().__init__(path, compiled.metadata)
            self.kernels, self._limits = compiled.kernels, compiled.limits
            self._sizes = compiled.model.input(0).partial_shape
        self.version = ".".join(self.api.__version__.split("-")[0].split(".")[:3])

    @property
    def description(self) -> str:
        """Return OpenVINO's version and what the layers compute in."""
        return f"OpenVINO {self.version} {DEVICE} {self.kernels}"

    @property
    def limits(self) -> Limits:
        """Return the shapes that the file takes."""
        return self._limits

    def outputs(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Return what the file gives for a batch, by name."""
        self.limits.check((images.shape[1], images.shape[2]))
        if not self._sizes.compatible(self.api.PartialShape(list(images.shape))):
            raise BundleError(
                f"{self.path} takes images of shape {self._sizes}, got {tuple(images.shape)}: export it again"
            )
        with self.session.use() as compiled:
            request = compiled.request
            try:
                request.start_async({INPUT_NAME: np.ascontiguousarray(images)}, share_inputs=True)
                request.wait()  # raises; `infer` swallows errors where it has one thread
                return {
                    output.name: _copied(request.get_tensor(output.name), output.size(*images.shape[:3]))
                    for output in self.metadata.outputs
                }
            except RuntimeError as error:
                raise BundleError(
                    f"OpenVINO failed on images of shape {tuple(images.shape)}: {_reason(error)}"
                ) from error


def compile_file(api: Any, path: Path, threads: int | None) -> Compiled:
    """Return a file that is ready to run.

    Args:
        api: OpenVINO.
        path: of an ONNX file.
        threads: of the CPU; None for one on each physical core.

    Raises:
        BundleError: not a file of `zoo export`, one that does not compute in its precision here, or a process
            that was forked after OpenVINO was loaded, where it would wait for threads of the parent.
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
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = str(threads)
        with same_signal_stack():
            model = core.compile_model(source, DEVICE, options)
    except RuntimeError as error:
        raise BundleError(
            f"{path} cannot be loaded by OpenVINO ({_reason(error)}): export it again, or use another "
            f"precision or backend"
        ) from error
    kernels = check_kernels(model, path, metadata.precision)
    return Compiled(model, model.create_infer_request(), metadata, limits_of(source), kernels)


def limits_of(source: Any) -> Limits:
    """Return the shapes that a file takes; the smallest are those whose layers OpenVINO can give a shape.

    Args:
        source: of the file; its input gets another shape.
    """
    sizes = source.input(0).partial_shape
    limits = limits_of_sizes([None if size.is_dynamic else size.get_length() for size in sizes])

    def takes(size: tuple[int, int]) -> bool:
        try:
            source.reshape([limits.low[0], *size, 3])
        except RuntimeError:
            return False
        return True

    return smallest(takes, limits)


def _copied(tensor: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the values of an output, which the next batch overwrites.

    Raises:
        RuntimeError: they are not of this batch.
    """
    values: NDArray[Any] = tensor.data.copy()
    if values.shape != shape:
        raise RuntimeError(f"got an output of shape {values.shape}, expected {shape}")
    return values


def load_openvino() -> Any:
    """Return the package.

    Raises:
        BundleError: it is not installed.
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
