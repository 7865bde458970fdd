"""TensorRT backend, on memory and a stream of PyTorch, with CUDA graphs."""

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
from zoo.predictors.runtimes.trt_api import TITLES, TensorRt, load_tensorrt
from zoo.predictors.session import Session, forked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.predictors.artifact import Shape
    from zoo.predictors.bound import Buffers

log = logging.getLogger(__name__)


class Opening(NamedTuple):
    """Arguments of `open_engine`."""

    api: TensorRt
    path: Path
    info: EngineInfo
    device: torch.device
    cuda_graph: bool


class Runtime(NamedTuple):
    """An engine, and its runtime settings in TensorRT-RTX; None for TensorRT."""

    engine: Any
    rtx: RtxRuntime | None


class TrtPredictor(BoundPredictor):
    """An engine that `zoo export` built.

    Args:
        path: path of the engine.
        info: origin and target of the engine.
        device: `cuda` or `cuda:N`.
        cuda_graph: whether to replay CUDA graphs instead of launching each kernel.

    Raises:
        BundleError: an engine that cannot run here.
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
        """Return TensorRT's version, the GPU and whether CUDA graphs are used."""
        graph = ", CUDA graphs" if self.cuda_graph else ""
        return f"{self.api.name} {torch.cuda.get_device_name(self.device)}{graph}"

    @property
    def limits(self) -> Limits:
        """Return the shapes that the engine accepts."""
        return Limits(self.info.profile.min, self.info.profile.max)

    @property
    def build_seconds(self) -> float:
        """Return the duration of the engine's build."""
        return self.info.build_seconds

    def check(self, shape: Shape) -> None:
        """Raise unless the engine accepts a shape.

        Raises:
            BundleError: a shape outside the engine's profile.
        """
        check_shape(shape, self.info, self.path)

    def bind(self, runtime: Runtime, shape: Shape, buffers: Buffers) -> Callable[[], None]:
        """Return the launch function of one shape, after a first run.

        A captured graph includes the state of its context, so that each shape has its own context.
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

        enqueue()  # initializes TensorRT for the shape, and compiles in TensorRT-RTX
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
        """Return the replay of a CUDA graph, or `enqueue` itself without graphs."""
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

        def replay(_: Callable[[], None] = enqueue) -> None:  # keeps the context alive
            graph.replay()

        return replay


class RtxRuntime:
    """Runtime settings of TensorRT-RTX: its own CUDA graphs, and a cache of compiled kernels.

    TensorRT-RTX compiles kernels for this GPU on the first run of a shape; they are cached in a hidden file
    beside the engine. Kernels that it compiles later in the background are written when this object is freed.

    Args:
        opening: arguments of `open_engine`.
        engine: engine whose execution contexts use `config`.
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
            opening.api.drain()  # e.g. of another driver: compile again
        self.config.set_runtime_cache(self.cache)
        weakref.finalize(self, save_kernels, self.cache, self.path)

    def save(self) -> None:
        """Write all compiled kernels to the cache file."""
        save_kernels(self.cache, self.path)


def save_kernels(cache: Any, path: Path) -> None:
    """Write the compiled kernels of a cache to a file."""
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(memoryview(cache.serialize()))
    except OSError as error:
        log.warning("%s cannot be written (%s): each start compiles again", path, error)


def open_engine(opening: Opening) -> Opened:
    """Return an engine that is ready to run.

    Raises:
        BundleError: TensorRT rejects the engine, or this process was forked from one that used the GPU.
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
        BundleError: one of the two files is missing, or the engine cannot run here.
    """
    if not path.is_file():
        raise BundleError(f"{path} does not exist, expected a TensorRT engine: zoo export --trt makes one")
    return TrtPredictor(path, read_engine_info(path), device)


def load_runtime(path: Path, info: EngineInfo) -> TensorRt:
    """Return the TensorRT package that built an engine.

    Raises:
        BundleError: the package is not installed.
    """
    try:
        return load_tensorrt(info.flavor)
    except ExportError as error:
        raise BundleError(f"{path} cannot run on this machine: {error}") from error


def check_engine(path: Path, info: EngineInfo, api: TensorRt) -> None:
    """Raise unless size and TensorRT version of an engine match its JSON file.

    Raises:
        BundleError: a size or version that differs.
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
    """Return the deserialized engine of a file.

    Raises:
        BundleError: TensorRT rejects the file.
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
        BundleError: a shape outside the profile, which the message gives.
    """
    low, high = info.profile.min, info.profile.max
    if any(not least <= size <= most for least, size, most in zip(low, shape, high, strict=True)):
        raise BundleError(
            f"{path} takes batch, height, width from {low} to {high}, got {shape}: "
            f"build it for this shape with zoo export --trt --imgsz H,W --batch MIN,OPT,MAX"
        )
