"""Base of the backends that run exported files: selection and derivation of outputs."""

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

    from zoo.bundle.reliability import Calibration
    from zoo.predictors.artifact import ArtifactMetadata


class ExportedPredictor(Predictor):
    """A model in an exported file. A backend implements `outputs`.

    Args:
        path: path of the file.
        metadata: metadata of the file.
    """

    def __init__(self, path: Path, metadata: ArtifactMetadata) -> None:
        super().__init__(metadata.classes, metadata.preprocessing)
        self.path = path
        self.metadata = metadata
        self.calibration = metadata.calibration

    @abstractmethod
    def outputs(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return all outputs of the file for a batch, by name, in arrays that the caller owns.

        Args:
            images: (B, H, W, C) of the format of the metadata.

        Raises:
            BundleError: a shape that the file does not accept.
        """

    @property
    def available(self) -> tuple[str, ...]:
        """Return the names of the file's outputs; with logits, of all outputs computed from them."""
        return derivable([output.name for output in self.metadata.outputs], self.calibration)

    @property
    def precision(self) -> str:
        """Return the precision of weights and activations."""
        return self.metadata.precision

    def infer(self, images: NDArray[Any], outputs: Sequence[str] = (MASK,)) -> dict[str, NDArray[Any]]:
        """Return outputs of a batch by name, without resizing.

        Raises:
            BundleError: a shape that the file does not accept, or an output that it does not have.
        """
        check_given([output.name for output in self.metadata.outputs], outputs, self.calibration)
        found = self.outputs(images)
        if missing := [name for name in outputs if name not in found]:
            found |= from_logits(found[LOGITS], missing, self.calibration)
        return {name: found[name] for name in outputs}


def from_logits(
    logits: NDArray[np.float32], names: Sequence[str], calibration: Calibration | None = None
) -> dict[str, NDArray[Any]]:
    """Return outputs computed from (B, K, H, W) logits, the only step that needs PyTorch."""
    import torch

    derived = derive({LOGITS: torch.from_numpy(logits)}, names, calibration)
    return {name: values.numpy() for name, values in derived.items()}
