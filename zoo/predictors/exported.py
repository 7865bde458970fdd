"""What all backends of exported files share: which output is what."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from zoo.predictors.base import Predictor
from zoo.predictors.outputs import LOGITS, MASK, check_given, derivable, derive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

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

    @property
    def available(self) -> tuple[str, ...]:
        """Return the names of the file's outputs; with logits, of all that follow from them."""
        return derivable([output.name for output in self.metadata.outputs])

    @property
    def precision(self) -> str:
        """Return the precision of weights and activations."""
        return self.metadata.precision

    def infer(self, images: NDArray[np.uint8], outputs: Sequence[str] = (MASK,)) -> dict[str, NDArray[Any]]:
        """Return outputs of a batch at its own size, by name.

        Raises:
            BundleError: the file does not take this shape, or does not have this output.
        """
        check_given([output.name for output in self.metadata.outputs], outputs)
        found = self.outputs(images)
        if missing := [name for name in outputs if name not in found]:
            found |= from_logits(found[LOGITS], missing)
        return {name: found[name] for name in outputs}


def from_logits(logits: NDArray[np.float32], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return outputs that follow from (B, K, H, W) logits: all for which an exported file needs PyTorch."""
    import torch

    derived = derive({LOGITS: torch.from_numpy(logits)}, names)
    return {name: values.numpy() for name, values in derived.items()}
