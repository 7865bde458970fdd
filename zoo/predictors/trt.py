"""A TensorRT engine run on memory and a stream of PyTorch, replayed as CUDA graphs."""

from __future__ import annotations

import logging
import re
import weakref
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from zoo.bundle.bundle import replacing
from zoo.errors import BundleError, ExportError
from zoo.predictors.artifact import INPUT_NAME, EngineInfo, read_engine_info
from zoo.predictors.bound import BoundPredictor, Opened, new_stream
from zoo.predictors.limits import Limits
from zoo.predictors.session import Session
from zoo.predictors.trt_api import TITLES, TensorRt, load_tensorrt
from zoo.predictors.upload import forked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.predictors.artifact import Shape
    from zoo.predictors.bound import Buffers

log = logging.getLogger(__name__)


class Opening(NamedTuple):
    """What opens an engine."""

    api: TensorRt
    path: Path
    info: EngineInfo
    device: torch.device
    cuda_graph: bool


class Runtime(NamedTuple):
    """An engine, and how TensorRT-RTX is to run it; None for TensorRT."""

    engine: Any
    rtx: RtxRuntime | None


class TrtPredictor(BoundPredictor):
    """An engine that `zoo export` built.

    Args:
        path: of the engine.
        info: what it was built for.
        device: `cuda` or `cuda:N`.
        cuda_graph: whether graphs are replayed; without, the host launches each kernel.

    Raises:
        BundleError: it cannot run here.
    """

    backend = "trt"

    def __init__(
        self, path: Path, info: EngineInfo, device: str = "cuda", *, cuda_graph: bool = True
    ) -> None:
        if reason := why_not_here(info, torch.device(device)):
            raise BundleError(f"{path} cannot run on this machine: {reason}")
        self.api = load_runtime(path, info)
        check_engine(path, info, self.api)
        self.info = info
        self.cuda_graph = cuda_graph
        opening = Opening(self.api, path, info, torch.device(device), cuda_graph)
        session = Session(path, partial(open_engine, opening), alone=True)
        super().__init__(path, info.metadata, device, new_stream(device), session)

    @property
    def description(self) -> str:
        """Return TensorRT's version, the GPU and whether graphs are replayed."""
        graph = ", CUDA graphs" if self.cuda_graph else ""
        return f"{self.api.name} {torch.cuda.get_device_name(self.device)}{graph}"

    @property
    def limits(self) -> Limits:
        """Return the shapes that the file takes."""
        return Limits(self.info.profile.min, self.info.profile.max)

    @property
    def build_seconds(self) -> float:
        """Return how long the build of the engine took."""
        return self.info.build_seconds

    def check(self, shape: Shape) -> None:
        """Raise unless the engine takes a shape.

        Raises:
            BundleError: names its limits.
        """
        check_shape(shape, self.info, self.path)

    def bind(self, runtime: Runtime, shape: Shape, buffers: Buffers) -> Callable[[], None]:
        """Return what runs one shape, after a first run of it.

        A captured graph holds the state of its context: each shape has a context of its own.
        """
        context = self._new_context(runtime)
        context.set_input_shape(INPUT_NAME, (*shape, 3))
        context.set_tensor_address(INPUT_NAME, buffers.image.data_ptr())
        for name, output in buffers.outputs.items():
            context.set_tensor_address(name, output.data_ptr())
        assert self.stream is not None
        stream = self.stream.cuda_stream

        def enqueue() -> None:
            if not context.execute_async_v3(stream):
                raise BundleError(f"{self.path} failed on images of shape {(*shape, 3)}: {self.api.drain()}")

        enqueue()  # what TensorRT sets up, and TensorRT-RTX compiles, at the first run of a shape
        if runtime.rtx is not None:
            self.stream.synchronize()
            runtime.rtx.save()
            return enqueue
        return self._captured(enqueue)

    def _new_context(self, runtime: Runtime) -> Any:
        make = runtime.engine.create_execution_context
        context = make() if runtime.rtx is None else make(runtime.rtx.config)
        if context is None:
            raise BundleError(f"{self.path} cannot be run ({self.api.drain()}): free memory of the GPU")
        return context

    def _captured(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Return the replay of a graph, or `enqueue` itself if none is wanted or possible."""
        if not self.cuda_graph:
            return enqueue
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                enqueue()
        except (RuntimeError, BundleError) as error:
            log.warning("running %s without CUDA graphs: %s", self.path, error)
            self.cuda_graph = False
            return enqueue

        def replay(_: Callable[[], None] = enqueue) -> None:  # which holds the context
            graph.replay()

        return replay


class RtxRuntime:
    """How TensorRT-RTX is to run an engine: with CUDA graphs of its own and the kernels of earlier runs.

    It compiles kernels for this GPU when shapes are first run; they are kept in a hidden file beside the
    engine. What TensorRT-RTX compiles later in the background is written when this object is gone.

    Args:
        opening: of the engine.
        engine: whose execution contexts take `config`.
    """

    def __init__(self, opening: Opening, engine: Any) -> None:
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", torch.cuda.get_device_name(opening.device))
        self.path = opening.path.with_name(f".{opening.info.onnx_sha256[:16]}.{gpu}.cache")
        self.config = engine.create_runtime_config()
        strategy = opening.api.module.CudaGraphStrategy
        graphs = strategy.WHOLE_GRAPH_CAPTURE if opening.cuda_graph else strategy.DISABLED
        self.config.cuda_graph_strategy = graphs
        self.cache = self.config.create_runtime_cache()
        if self.path.is_file() and not self.cache.deserialize(self.path.read_bytes()):
            opening.api.drain()  # of another driver, say: all is compiled anew
        self.config.set_runtime_cache(self.cache)
        weakref.finalize(self, save_kernels, self.cache, self.path)

    def save(self) -> None:
        """Write all kernels."""
        save_kernels(self.cache, self.path)


def save_kernels(cache: Any, path: Path) -> None:
    """Write all kernels of a cache to a file."""
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(memoryview(cache.serialize()))
    except OSError as error:
        log.warning("%s cannot be written (%s): each start compiles again", path, error)


def open_engine(opening: Opening) -> Opened:
    """Return an engine that is ready to run.

    Raises:
        BundleError: TensorRT refuses it, or this process was forked from one that used the GPU.
    """
    if torch.cuda._is_in_bad_fork():
        raise forked("a model on a GPU")
    with torch.cuda.device(opening.device):
        engine = deserialize(opening.api, opening.path)
        rtx = RtxRuntime(opening, engine) if opening.info.flavor == "rtx" else None
    return Opened(Runtime(engine, rtx), OrderedDict())


def load_trt(path: Path, device: str = "cuda") -> TrtPredictor:
    """Return the predictor of an engine and the JSON file beside it.

    Raises:
        BundleError: one of the two is missing, or the engine cannot run here.
    """
    if not path.is_file():
        raise BundleError(f"{path} does not exist, expected a TensorRT engine: zoo export --trt makes one")
    return TrtPredictor(path, read_engine_info(path), device)


def load_runtime(path: Path, info: EngineInfo) -> TensorRt:
    """Return the package that built an engine.

    Raises:
        BundleError: it is not installed.
    """
    try:
        return load_tensorrt(info.flavor)
    except ExportError as error:
        raise BundleError(f"{path} cannot run on this machine: {error}") from error


def check_engine(path: Path, info: EngineInfo, api: TensorRt) -> None:
    """Raise unless an engine is the one that was built, by the TensorRT that is to run it.

    Raises:
        BundleError: says what differs.
    """
    size = path.stat().st_size
    if size != info.bytes:
        raise BundleError(
            f"{path} has {size} bytes, expected the {info.bytes} of the engine that was built: copy it "
            f"again, or build it here with zoo export --trt"
        )
    if info.version != api.version:
        raise BundleError(
            f"{path} was built with {TITLES[info.flavor]} {info.version}, this is {api.version}: build it "
            f"here with zoo export --trt"
        )


def deserialize(api: TensorRt, path: Path) -> Any:
    """Return the engine of a file.

    Raises:
        BundleError: TensorRT refuses it.
    """
    api.logger.errors.clear()
    runtime = api.module.Runtime(api.logger)
    engine = None if runtime is None else runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise BundleError(
            f"{api.name} cannot load {path} ({api.drain()}): it was built for another GPU or version, or "
            f"no GPU can be used; build it here with zoo export --trt"
        )
    return engine


def why_not_here(info: EngineInfo, device: torch.device | None = None) -> str:
    """Return why an engine cannot run on a GPU of this machine; empty if it should."""
    if not torch.cuda.is_available():
        return "PyTorch finds no NVIDIA GPU: run the .onnx file on the CPU instead"
    name = torch.cuda.get_device_name(device)
    major, minor = torch.cuda.get_device_capability(device)
    if info.gpu and info.gpu != name:
        return f"it was built on {info.gpu}, this is {name}: build it here with zoo export --trt"
    if info.sm and major * 10 + minor not in info.sm:
        sm = f"{major}{minor}"
        return f"it was built for {info.target}, {name} is SM {sm}: zoo export --trt --sm {sm}"
    return ""


def check_shape(shape: Shape, info: EngineInfo, path: Path) -> None:
    """Raise unless a shape is inside an engine's profile.

    Raises:
        BundleError: names the limits.
    """
    low, high = info.profile.min, info.profile.max
    if any(not least <= size <= most for least, size, most in zip(low, shape, high, strict=True)):
        raise BundleError(
            f"{path} takes batch, height, width from {low} to {high}, got {shape}: "
            f"build it for this shape with zoo export --trt --imgsz H,W --batch MIN,OPT,MAX"
        )
