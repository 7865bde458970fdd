"""A TensorRT engine run on memory and a stream of PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo.bundle import replacing
from zoo.errors import BundleError, ExportError
from zoo.predictors.artifact import INPUT_NAME, EngineInfo, read_engine_info
from zoo.predictors.base import Predictor
from zoo.predictors.trt_api import TensorRt, load_tensorrt

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.predictors.artifact import Shape


class TrtPredictor(Predictor):
    """An engine that `zoo export` built.

    `run` is `upload`, `compute` and `download`, which a benchmark can time apart.

    Args:
        path: of the engine.
        info: what it was built for.
        device: `cuda` or `cuda:N`.

    Raises:
        BundleError: it cannot run here.
    """

    backend = "trt"

    def __init__(self, path: Path, info: EngineInfo, device: str = "cuda") -> None:
        super().__init__(info.metadata.classes, info.metadata.preprocessing)
        self.path = path
        self.info = info
        self.device = torch.device(device)
        if reason := why_not_here(info, self.device):
            raise BundleError(f"{path} cannot run here: {reason}")
        self.api = load_runtime(path, info)
        torch.cuda.set_device(self.device)
        self.stream = torch.cuda.Stream(self.device)
        self.engine = deserialize(self.api, path)
        self.cache = (
            RuntimeCache(self.engine, path) if hasattr(self.engine, "create_runtime_config") else None
        )
        self.context = (
            self.engine.create_execution_context(self.cache.config)
            if self.cache
            else self.engine.create_execution_context()
        )
        if self.context is None:
            raise BundleError(f"{path} cannot be run ({self.api.drain()}): free memory of the GPU")
        self.seen: set[Shape] = set()

    @property
    def description(self) -> str:
        """Return TensorRT's version and the GPU."""
        return f"{self.api.name} {torch.cuda.get_device_name(self.device)}"

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the masks of a batch at its own size.

        Raises:
            BundleError: a shape outside the engine's profile.
        """
        return self.download(self.compute(self.upload(images)))

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Return (B, K, H, W) float32 class scores of a batch, or None if the engine gives masks."""
        if self.info.metadata.output == "mask":
            return None
        scores: NDArray[np.float32] = self._execute(self.upload(images)).cpu().numpy()
        return scores

    def upload(self, images: NDArray[np.uint8]) -> Tensor:
        """Return a batch of images on the GPU.

        Args:
            images: (B, H, W, 3) uint8 RGB.
        """
        return torch.from_numpy(np.array(images, order="C")).to(self.device)

    def compute(self, batch: Tensor) -> Tensor:
        """Return the masks of a batch, on the GPU."""
        output = self._execute(batch)
        if self.info.metadata.output == "mask":
            return output
        return output.argmax(dim=1).to(getattr(torch, self.info.metadata.mask_dtype))

    def download(self, masks: Tensor) -> NDArray[np.uint8]:
        """Return masks in host memory."""
        array: NDArray[np.uint8] = masks.cpu().numpy()
        return array

    def _execute(self, batch: Tensor) -> Tensor:
        """Return the engine's output; later work on the current stream waits for it.

        The engine has a stream of its own: on the default one TensorRT adds synchronisation. Input and output
        stay referenced until the current stream has been told to wait.
        """
        shape = batch.shape[0], batch.shape[1], batch.shape[2]
        check_shape(shape, self.info, self.path)
        metadata = self.info.metadata
        size = shape if metadata.output == "mask" else (shape[0], len(metadata.names), *shape[1:])
        output = torch.empty(size, dtype=getattr(torch, metadata.output_dtype), device=self.device)
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        done = (
            self.context.set_input_shape(INPUT_NAME, tuple(batch.shape))
            and self.context.set_tensor_address(INPUT_NAME, batch.data_ptr())
            and self.context.set_tensor_address(metadata.output, output.data_ptr())
            and self.context.execute_async_v3(self.stream.cuda_stream)
        )
        current.wait_stream(self.stream)
        if not done:
            raise BundleError(
                f"{self.path} failed on images of shape {tuple(batch.shape)}: {self.api.drain()}"
            )
        if self.cache and shape not in self.seen:
            self.stream.synchronize()
            self.cache.save()
        self.seen.add(shape)
        return output


class RuntimeCache:
    """The kernels that TensorRT-RTX compiled for this GPU, kept beside the engine.

    Args:
        engine: whose execution context takes `config`.
        path: of the engine.
    """

    def __init__(self, engine: Any, path: Path) -> None:
        self.path = path.with_name(f"{path.name}.cache")
        self.config = engine.create_runtime_config()
        self.cache = self.config.create_runtime_cache()
        if self.path.is_file():
            self.cache.deserialize(self.path.read_bytes())  # False from another GPU or version: compiled anew
        self.config.set_runtime_cache(self.cache)

    def save(self) -> None:
        """Write what was compiled since."""
        with replacing(self.path) as path:
            path.write_bytes(memoryview(self.cache.serialize()))


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
        raise BundleError(f"{path} cannot run here: {error}") from error


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
