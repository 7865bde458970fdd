"""The bundle itself in PyTorch, eager or compiled: the reference that all backends are compared with."""

from __future__ import annotations

import os
import platform
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from zoo.bundle.weights import load_bundle
from zoo.errors import BundleError
from zoo.faults import is_full_memory
from zoo.predictors.base import Predictor
from zoo.predictors.limits import Limits, smallest
from zoo.predictors.outputs import LOGITS, MASK, OUTPUTS, derive
from zoo.predictors.session import renew_after_fork
from zoo.predictors.upload import forked, upload
from zoo.preprocess import Preprocessing, normalize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from zoo.bundle.bundle import BundleConfig
    from zoo.models.deployable import Deployable


class EagerPredictor(Predictor):
    """A deployable run by PyTorch.

    Args:
        deployable: moved to `device`.
        config: its classes and preprocessing.
        device: `cpu` or `cuda`.
        channels_last: run in the memory format that convolutions are fastest in.
    """

    backend = "eager"

    def __init__(
        self,
        deployable: Deployable,
        config: BundleConfig,
        device: str = "cpu",
        *,
        channels_last: bool = False,
    ) -> None:
        super().__init__(config.classes, config.preprocessing)
        self.device = torch.device(device)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model: nn.Module = Normalized(deployable, config.preprocessing).eval()
        self.model = self.model.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        self._limits: Limits | None = None
        self._turn: AbstractContextManager[Any] = nullcontext()
        self._compiled_by: int | None = None
        renew_after_fork(self)

    @property
    def description(self) -> str:
        """Return PyTorch's version and the device."""
        return f"PyTorch {torch.__version__} {self.device}"

    def upload(self, images: NDArray[np.uint8]) -> Tensor:
        """Return a batch of images on the device.

        Args:
            images: (B, H, W, 3) uint8 RGB.
        """
        return upload(images, self.device)

    @property
    def limits(self) -> Limits:
        """Return the shapes that the network takes; the smallest are found by runs, when first asked for."""
        if self._limits is None:
            self._limits = smallest(self._takes, Limits())
        return self._limits

    def renew(self) -> None:
        """Run in one thread: others would wait for those of the parent for ever."""
        if self.device.type == "cpu":
            torch.set_num_threads(1)

    def scores(self, batch: Tensor) -> Tensor:
        """Return (B, K, H, W) logits on the device.

        Args:
            batch: (B, H, W, 3) uint8 RGB, on the device.

        Raises:
            InvalidImageError: images of a size that the network does not take.
            BundleError: the network fails on them.
        """
        self.limits.check((batch.shape[1], batch.shape[2]))
        if self._compiled_by not in (None, os.getpid()):
            raise forked("a compiled model")
        try:
            with self._turn:
                return self._forward(self.model, batch)
        except RuntimeError as error:
            if is_full_memory(error):
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BundleError(f"PyTorch failed on images of shape {tuple(batch.shape)}: {reason}") from error

    def compile(self) -> None:
        """Compile for each shape when it is first run; threads take turns, for PyTorch compiles in one."""
        self.model.compile(dynamic=False)
        self._turn = threading.Lock()
        self._compiled_by = os.getpid()

    @torch.inference_mode()
    def _forward(self, model: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        planes = batch.permute(0, 3, 1, 2)
        return model(planes.contiguous(memory_format=self.memory_format))

    def _takes(self, size: tuple[int, int]) -> bool:
        """Return whether the network itself, not what is compiled of it, runs on images of a size."""
        batch = torch.zeros((1, *size, 3), dtype=torch.uint8, device=self.device)
        try:
            self._forward(self.model.forward, batch)
        except (RuntimeError, ValueError, AssertionError):  # what layers of PyTorch and timm raise
            return False
        return True

    def compute(self, batch: Tensor) -> Tensor:
        """Return the (B, H, W) masks of a batch, on the device."""
        return self._derived(batch, (MASK,))[MASK]

    def download(self, values: Tensor) -> NDArray[Any]:
        """Return an output in host memory."""
        array: NDArray[Any] = values.cpu().numpy()
        return array

    @property
    def available(self) -> tuple[str, ...]:
        """Return the names of all outputs: they follow from logits."""
        return tuple(OUTPUTS)

    def infer(self, images: NDArray[np.uint8], outputs: Sequence[str] = (MASK,)) -> dict[str, NDArray[Any]]:
        """Return outputs of a batch at its own size, by name."""
        found = self._derived(self.upload(images), outputs)
        return {name: self.download(values) for name, values in found.items()}

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (B, K, H, W) float32 class scores of a batch."""
        return self.infer(images, (LOGITS,))[LOGITS]

    @torch.inference_mode()
    def _derived(self, batch: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        scores = self.scores(batch)
        return derive({LOGITS: scores.float() if LOGITS in outputs else scores}, outputs)


class CompiledPredictor(EagerPredictor):
    """The same through `torch.compile`, channels last; the first batch of each shape pays for compiling."""

    backend = "compile"

    def __init__(self, deployable: Deployable, config: BundleConfig, device: str = "cpu") -> None:
        super().__init__(deployable, config, device, channels_last=True)
        self.compile()


class AmpPredictor(EagerPredictor):
    """The same in mixed precision, channels last: what PyTorch gives to those who ask, without an export.

    Raises:
        BundleError: a CPU on which it would be slower than fp32.
    """

    backend = "eager-amp"

    def __init__(self, deployable: Deployable, config: BundleConfig, device: str = "cpu") -> None:
        self.dtype = amp_dtype(torch.device(device))
        super().__init__(deployable, config, device, channels_last=True)

    @property
    def description(self) -> str:
        """Return PyTorch's version, the device and the type of the convolutions."""
        return f"{super().description}, AMP {str(self.dtype).removeprefix('torch.')}"

    @property
    def precision(self) -> str:
        """Return the precision of the convolutions."""
        return {torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]

    def scores(self, batch: Tensor) -> Tensor:
        """Return (B, K, H, W) logits on the device, in half precision."""
        with torch.autocast(self.device.type, self.dtype):
            return super().scores(batch)


class CompiledAmpPredictor(AmpPredictor):
    """Both: mixed precision through `torch.compile`, the most that PyTorch gives without an export.

    Raises:
        BundleError: see `AmpPredictor`.
    """

    backend = "compile-amp"

    def __init__(self, deployable: Deployable, config: BundleConfig, device: str = "cpu") -> None:
        super().__init__(deployable, config, device)
        self.compile()


def amp_dtype(device: torch.device) -> torch.dtype:
    """Return the type for mixed precision: bfloat16, or float16 on a GPU that only emulates bfloat16.

    Raises:
        BundleError: a CPU without instructions for bfloat16.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if not has_bf16_instructions():
        raise BundleError(
            "mixed precision needs a CPU with bfloat16 instructions (AVX512-BF16, AMX or Arm's): this one "
            "has none and would be slower than in fp32, compare with eager or compile"
        )
    return torch.bfloat16


def has_bf16_instructions() -> bool:
    """Return whether this CPU multiplies bfloat16 itself; oneDNN would emulate it on others."""
    if platform.machine() in ("x86_64", "AMD64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


EagerFlavor = Literal["eager", "eager-amp", "compile", "compile-amp"]

FLAVORS: dict[EagerFlavor, type[EagerPredictor]] = {
    "eager": EagerPredictor,
    "eager-amp": AmpPredictor,
    "compile": CompiledPredictor,
    "compile-amp": CompiledAmpPredictor,
}


class Normalized(nn.Module):
    """A deployable that takes images in 0..255."""

    def __init__(self, deployable: Deployable, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.deployable = deployable
        self.preprocessing = preprocessing

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K, H, W) logits.

        Args:
            images: (B, 3, H, W) uint8 or float in 0..255.
        """
        logits: Tensor = self.deployable(normalize(images, self.preprocessing))
        return logits


def load_eager(folder: Path, device: str = "cpu", *, flavor: EagerFlavor = "eager") -> EagerPredictor:
    """Return the predictor of a bundle.

    Raises:
        BundleError: no usable bundle in `folder`.
    """
    deployable, config = load_bundle(folder)
    return FLAVORS[flavor](deployable, config, device)
