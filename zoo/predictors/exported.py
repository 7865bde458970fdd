"""What all backends of exported files share: which output is what."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from zoo.predictors.artifact import CONFIDENCE, LOGITS, MASK
from zoo.predictors.base import Prediction, Predictor

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from zoo.classes import Mask
    from zoo.predictors.artifact import ArtifactMetadata


class ExportedPredictor(Predictor):
    """A file that `zoo export` made. A backend implements `outputs`.

    Args:
        path: of the file.
        metadata: what the file says of itself.
    """

    def __init__(self, path: Path, metadata: ArtifactMetadata) -> None:
        super().__init__(metadata.classes, metadata.preprocessing)
        self.path = path
        self.metadata = metadata

    @abstractmethod
    def outputs(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Return what the file gives for a batch, by name, in arrays that are the caller's.

        Args:
            images: (B, H, W, 3) uint8 RGB.

        Raises:
            BundleError: the file does not take this shape.
        """

    def run(self, images: NDArray[np.uint8]) -> Mask:
        """Return the masks of a batch at its own size.

        Raises:
            BundleError: the file does not take this shape.
        """
        outputs = self.outputs(images)
        return decide(outputs[LOGITS]).mask if LOGITS in outputs else outputs[MASK]

    def run_with_confidence(self, images: NDArray[np.uint8]) -> Prediction:
        """Return the masks of a batch at its own size and their confidence, in one pass."""
        outputs = self.outputs(images)
        if LOGITS not in outputs:
            return Prediction(outputs[MASK], outputs.get(CONFIDENCE))
        return decide(outputs[LOGITS])

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Return (B, K, H, W) float32 class scores of a batch, or None if the file gives masks."""
        return self.outputs(images)[LOGITS] if self.metadata.output == "logits" else None


def decide(logits: NDArray[np.float32]) -> Prediction:
    """Return what (B, K, H, W) logits say: the only outputs for which an exported file needs PyTorch."""
    import torch

    from zoo.predictors.decision import choose, confidence

    tensor = torch.from_numpy(logits)
    return Prediction(choose(tensor).numpy(), confidence(tensor).numpy())
