"""The one interface of every backend: uint8 images in, masks out, numpy at the border."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from zoo.predictors.limits import Limits
from zoo.preprocess import Preprocessing, check_image, resize_image, resize_mask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zoo.classes import Classes, Mask


class Prediction(NamedTuple):
    """A mask, of one image or of a batch, and how sure the model is of it."""

    mask: Mask
    confidence: NDArray[np.uint8] | None
    """The probability of each pixel's class, 0..255, of the mask's shape; None from a file of masks only."""


class Predictor(ABC):
    """A model that is ready to predict, for one thread at a time.

    A backend implements `run` on a batch at the network's size, and `run_with_confidence` if it can;
    `predict` adds what is the same for all.

    Args:
        classes: names and colours of the labels in the masks.
        preprocessing: brings an image to the network's size.
    """

    backend: str
    """Short name in tables: `eager`, `compile`, `ort`, `openvino`, `trt`."""

    def __init__(self, classes: Classes, preprocessing: Preprocessing) -> None:
        self.classes = classes
        self.preprocessing = preprocessing

    @property
    def description(self) -> str:
        """Return what runs where, e.g. `ONNX Runtime CPUExecutionProvider`."""
        return self.backend

    @property
    def limits(self) -> Limits:
        """Return the shapes that are taken: any, unless a backend's file says otherwise."""
        return Limits()

    @abstractmethod
    def run(self, images: NDArray[np.uint8]) -> Mask:
        """Return the masks of a batch at its own size: no resizing.

        Args:
            images: (B, H, W, 3) uint8 RGB.

        Returns:
            (B, H, W) uint8, or int32 above 255 classes.
        """

    def run_with_confidence(self, images: NDArray[np.uint8]) -> Prediction:
        """Return the (B, H, W) masks of a batch at its own size and their confidence, in one pass."""
        return Prediction(self.run(images), None)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32] | None:  # noqa: ARG002
        """Return (B, K, H, W) float32 class scores of a batch, or None if this artifact gives masks only."""
        return None

    def predict(self, image: NDArray[np.uint8]) -> Mask:
        """Return the mask of an image of any size, at the image's size.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (H, W) uint8, or int32 above 255 classes: labels 0..K-1.

        Raises:
            InvalidImageError: not a (H, W, 3) uint8 array.
        """
        return resize_mask(self.run(self._batch(image))[0], image.shape[:2])

    def predict_with_confidence(self, image: NDArray[np.uint8]) -> Prediction:
        """Return the mask and the confidence of an image of any size, both (H, W), at the image's size.

        Args:
            image: (H, W, 3) uint8 RGB.

        Raises:
            InvalidImageError: not a (H, W, 3) uint8 array.
        """
        mask, confidence = self.run_with_confidence(self._batch(image))
        size = image.shape[:2]
        of_image = (
            None if confidence is None else resize_mask(confidence[0], size)
        )  # of the pixel it came from
        return Prediction(resize_mask(mask[0], size), of_image)

    def _batch(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an image at the network's size, as a batch of one."""
        check_image(image)
        return resize_image(image, self.preprocessing.model_size(*image.shape[:2]))[None]
