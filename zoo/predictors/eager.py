"""PyTorch backends, eager or compiled, which run the bundle itself: the reference for all other backends."""

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
from zoo.models.deployable import Judging
from zoo.predictors.base import Predictor
from zoo.predictors.limits import Limits, smallest
from zoo.predictors.outputs import LOGITS, MASK, RELIABILITY, derivable, derive
from zoo.predictors.scores import own_reliability
from zoo.predictors.session import forked, renew_after_fork
from zoo.predictors.upload import upload
from zoo.preprocess import Preprocessing, normalize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from zoo.bundle.bundle import BundleConfig
    from zoo.bundle.reliability import Calibration, Score
    from zoo.models.deployable import Deployable


class EagerPredictor(Predictor):
    """A deployable run by PyTorch.

    Args:
        deployable: network, which is moved to `device`.
        config: configuration with classes and preprocessing.
        device: `cpu` or `cuda`.
        channels_last: whether to run in channels-last memory format, the fastest for convolutions.
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
        self.calibration = config.calibration
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

    def upload(self, images: NDArray[Any]) -> Tensor:
        """Return a batch of images on the device.

        Args:
            images: (B, H, W, C) of the format.
        """
        return upload(images, self.device)

    @property
    def limits(self) -> Limits:
        """Return the shapes that the network accepts; the smallest is found by trial runs on first access."""
        if self._limits is None:
            self._limits = smallest(self._takes, Limits())
        return self._limits

    def renew(self) -> None:
        """Limit PyTorch to one thread: it would wait forever for the threads of the parent process."""
        if self.device.type == "cpu":
            torch.set_num_threads(1)

    def scores(self, batch: Tensor) -> Tensor:
        """Return (B, K, H, W) logits on the device.

        Args:
            batch: (B, H, W, C) of the format, on the device.

        Raises:
            InvalidImageError: images of a size that the network does not accept.
            BundleError: the network fails on the images.
        """
        logits: Tensor = self._run(batch)
        return logits

    @property
    def own_score(self) -> Score | None:
        """Return the score that the model computes from more than its logits; None if it has none."""
        deployable = self.model.deployable
        return deployable.score if isinstance(deployable, Judging) else None

    def judged(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and what the model's own score is computed from, (B, H, W), on the device.

        Args:
            batch: (B, H, W, C) of the format, on the device.

        Raises:
            InvalidImageError: images of a size that the network does not accept.
            BundleError: the network fails on the images.
        """
        logits, judged = self._run(batch, judge=True)
        return logits, judged

    def _run(self, batch: Tensor, *, judge: bool = False) -> Any:
        """Return the logits, or a pair with `judge`."""
        self.limits.check((batch.shape[1], batch.shape[2]))
        if self._compiled_by not in (None, os.getpid()):
            raise forked("a compiled model")
        try:
            with self._turn:
                return self._forward(self.model, batch, judge=judge)
        except RuntimeError as error:
            if is_full_memory(error):
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BundleError(f"PyTorch failed on images of shape {tuple(batch.shape)}: {reason}") from error

    def compile(self) -> None:
        """Compile on the first run of each shape; threads take turns, since compiling is not thread-safe."""
        self.model.compile(dynamic=False)
        self._turn = threading.Lock()
        self._compiled_by = os.getpid()

    @torch.inference_mode()
    def _forward(self, model: Callable[..., Any], batch: Tensor, *, judge: bool = False) -> Any:
        planes = batch.permute(0, 3, 1, 2)
        if planes.dtype == torch.uint16:  # for which PyTorch has few operators
            planes = planes.float()
        return model(planes.contiguous(memory_format=self.memory_format), judge)

    def _takes(self, size: tuple[int, int]) -> bool:
        """Return whether the network, not compiled, runs on images of a size."""
        dtype = getattr(torch, self.format.dtype)
        batch = torch.zeros((1, *size, self.format.channels), dtype=dtype, device=self.device)
        try:
            self._forward(self.model.forward, batch)
        except (RuntimeError, ValueError, AssertionError):  # errors of PyTorch's and timm's layers
            return False
        return True

    def compute(self, batch: Tensor) -> Tensor:
        """Return the (B, H, W) masks of a batch, on the device."""
        return self.derived(batch, (MASK,), None)[MASK]

    def download(self, values: Tensor) -> NDArray[Any]:
        """Return an output in host memory."""
        array: NDArray[Any] = values.cpu().numpy()
        return array

    @property
    def available(self) -> tuple[str, ...]:
        """Return the names of all outputs, which are computed from logits and the calibration."""
        given = (LOGITS, RELIABILITY) if self._is_judged(self.calibration) else (LOGITS,)
        return derivable(given, self.calibration)

    def infer(self, images: NDArray[Any], outputs: Sequence[str] = (MASK,)) -> dict[str, NDArray[Any]]:
        """Return outputs of a batch by name, without resizing."""
        found = self.derived(self.upload(images), outputs, self.calibration)
        return {name: self.download(values) for name, values in found.items()}

    def logits(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the logits of a batch, (B, K, H, W) float32."""
        return self.infer(images, (LOGITS,))[LOGITS]

    @torch.inference_mode()
    def derived(
        self, batch: Tensor, outputs: Sequence[str], calibration: Calibration | None
    ) -> dict[str, Tensor]:
        """Return outputs of a batch by name, on the device, with any calibration of the model.

        Args:
            batch: (B, H, W, 3) uint8 RGB, on the device.
            outputs: names of outputs.
            calibration: calibration of the output `reliability`; None for none.

        Raises:
            BundleError: an output that the model does not have, or one that needs a calibration, without it.
        """
        given: dict[str, Tensor] = {}
        if RELIABILITY in outputs and calibration is not None and self._is_judged(calibration):
            scores, judged = self.judged(batch)
            given[RELIABILITY] = own_reliability(judged, calibration)
        else:
            scores = self.scores(batch)
        given[LOGITS] = scores.float() if LOGITS in outputs else scores
        return derive(given, outputs, calibration)

    def _is_judged(self, calibration: Calibration | None) -> bool:
        """Return whether a calibration is of the model's own score."""
        return calibration is not None and calibration.score == self.own_score


class CompiledPredictor(EagerPredictor):
    """A deployable compiled by `torch.compile`, channels last; the first batch of each shape is slow."""

    backend = "compile"

    def __init__(self, deployable: Deployable, config: BundleConfig, device: str = "cpu") -> None:
        super().__init__(deployable, config, device, channels_last=True)
        self.compile()


class AmpPredictor(EagerPredictor):
    """A deployable in mixed precision, channels last.

    Raises:
        BundleError: a CPU on which mixed precision is slower than fp32.
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

    def _run(self, batch: Tensor, *, judge: bool = False) -> Any:
        with torch.autocast(self.device.type, self.dtype):
            return super()._run(batch, judge=judge)


class CompiledAmpPredictor(AmpPredictor):
    """A deployable in mixed precision, compiled by `torch.compile`: PyTorch's fastest without an export.

    Raises:
        BundleError: a CPU on which mixed precision is slower than fp32.
    """

    backend = "compile-amp"

    def __init__(self, deployable: Deployable, config: BundleConfig, device: str = "cpu") -> None:
        super().__init__(deployable, config, device)
        self.compile()


def amp_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of mixed precision: bfloat16, or float16 on a GPU that only emulates bfloat16.

    Raises:
        BundleError: a CPU without bfloat16 instructions.
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
    """Return whether this CPU has bfloat16 instructions; oneDNN emulates them on other CPUs."""
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
    """A deployable preceded by normalization."""

    def __init__(self, deployable: Deployable, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.deployable = deployable
        self.preprocessing = preprocessing

    def forward(self, images: Tensor, judge: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Return (B, K, H, W) logits, or a pair of them and the model's own score.

        Args:
            images: (B, C, H, W), values as in the arrays of the format.
            judge: whether to return the score too, of a `Judging`.
        """
        images = normalize(images, self.preprocessing)
        if judge:
            assert isinstance(self.deployable, Judging)
            return self.deployable.judged(images)
        logits: Tensor = self.deployable(images)
        return logits


def load_eager(folder: Path, device: str = "cpu", *, flavor: EagerFlavor = "eager") -> EagerPredictor:
    """Return the predictor of a bundle.

    Raises:
        BundleError: `folder` is not a usable bundle.
    """
    deployable, config = load_bundle(folder)
    return FLAVORS[flavor](deployable, config, device)
