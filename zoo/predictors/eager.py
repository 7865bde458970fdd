"""The bundle itself in PyTorch, eager or compiled: the reference that every other backend is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.bundle import BundleConfig, load_bundle
from zoo.models.deployable import Deployable
from zoo.predictors.base import Predictor
from zoo.preprocess import Preprocessing, normalize


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
        self, deployable: Deployable, config: BundleConfig, device: str = "cpu", *, channels_last: bool = False
    ) -> None:
        super().__init__(config.classes, config.preprocessing)
        self.device = torch.device(device)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model: nn.Module = Normalized(deployable, config.preprocessing).eval()
        self.model = self.model.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]

    @property
    def description(self) -> str:
        """Return PyTorch's version and the device."""
        return f"PyTorch {torch.__version__} {self.device}"

    @torch.inference_mode()
    def scores(self, images: NDArray[np.uint8]) -> Tensor:
        """Return (B, K, H, W) logits on the device.

        Args:
            images: (B, H, W, 3) uint8 RGB.
        """
        batch = torch.from_numpy(np.array(images)).to(self.device).permute(0, 3, 1, 2)
        logits: Tensor = self.model(batch.contiguous(memory_format=self.memory_format))
        return logits

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the masks of a batch at its own size."""
        masks: NDArray[np.uint8] = self.scores(images).argmax(dim=1).to(torch.uint8).cpu().numpy()
        return masks

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (B, K, H, W) float32 class scores of a batch."""
        scores: NDArray[np.float32] = self.scores(images).float().cpu().numpy()
        return scores


class CompiledPredictor(EagerPredictor):
    """The same through `torch.compile`, channels last; the first batch of each shape pays for the compilation."""

    backend = "compile"

    def __init__(self, deployable: Deployable, config: BundleConfig, device: str = "cpu") -> None:
        super().__init__(deployable, config, device, channels_last=True)
        self.model.compile(dynamic=False)


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


def load_eager(
    folder: Path, device: str = "cpu", *, flavor: Literal["eager", "compile"] = "eager"
) -> EagerPredictor:
    """Return the predictor of a bundle.

    Raises:
        BundleError: no usable bundle in `folder`.
    """
    deployable, config = load_bundle(folder)
    return {"eager": EagerPredictor, "compile": CompiledPredictor}[flavor](deployable, config, device)
