"""The one interface of every backend: uint8 images in, masks out, numpy at the border."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from zoo.preprocess import Preprocessing, check_image, resize_image, resize_mask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zoo.classes import Classes


class Predictor(ABC):
    """A model that is ready to predict.

    A backend implements `run` on a batch at the network's size; `predict` adds what is the same for all.

    Args:
        classes: names and colours of the labels in the masks.
        preprocessing: brings an image to the network's size.
    """

    backend: str
    """Short name in tables: `eager`, `compile`, `ort`, `trt`."""

    def __init__(self, classes: Classes, preprocessing: Preprocessing) -> None:
        self.classes = classes
        self.preprocessing = preprocessing

    @property
    def description(self) -> str:
        """Return what runs where, e.g. `ONNX Runtime CPUExecutionProvider`."""
        return self.backend

    @abstractmethod
    def run(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the masks of a batch at its own size: no resizing.

        Args:
            images: (B, H, W, 3) uint8 RGB.

        Returns:
            (B, H, W) uint8.
        """

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32] | None:  # noqa: ARG002
        """Return (B, K, H, W) float32 class scores of a batch, or None if this artifact gives masks only."""
        return None

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the mask of an image of any size, at the image's size.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (H, W) uint8, labels 0..K-1.

        Raises:
            InvalidImageError: not a (H, W, 3) uint8 array.
        """
        check_image(image)
        size = image.shape[0], image.shape[1]
        resized = resize_image(image, self.preprocessing.model_size(*size))
        return resize_mask(self.run(resized[None])[0], size)
