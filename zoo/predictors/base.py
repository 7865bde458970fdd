"""The one interface of every backend: uint8 images in, masks out, numpy at the border."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.errors import BundleError
from zoo.predictors.limits import Limits
from zoo.predictors.outputs import CONFIDENCE, LOGITS, MASK, resize_output
from zoo.preprocess import Preprocessing, check_image, resize_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from zoo.classes import Classes, Mask


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model gives for one image or for a batch; `mask, confidence = prediction` takes it apart.

    Args:
        outputs: by name, see `zoo.predictors.outputs`.
    """

    outputs: dict[str, NDArray[Any]]

    @property
    def mask(self) -> Mask:
        """Return the class of each pixel."""
        return self.outputs[MASK]

    @property
    def confidence(self) -> NDArray[np.uint8] | None:
        """Return the probability of each pixel's class, 0..255; None if it is not there."""
        return self.outputs.get(CONFIDENCE)

    def __iter__(self) -> Iterator[NDArray[Any] | None]:
        """Return mask and confidence."""
        return iter((self.mask, self.confidence))

    def at(self, index: int) -> Prediction:
        """Return the prediction of one image of a batch."""
        return Prediction({name: values[index] for name, values in self.outputs.items()})

    def resized(self, size: tuple[int, int]) -> Prediction:
        """Return the prediction of one image at (height, width) `size`."""
        return Prediction({name: resize_output(name, values, size) for name, values in self.outputs.items()})


class Predictor(ABC):
    """A model that is ready to predict, for any number of threads.

    A backend implements `infer` on a batch at the network's size; all else is the same for all. What it
    returns is the caller's: no later call changes it.

    In a process that was forked it runs on the CPU only, and what is compiled not at all. A copy, or one that
    was pickled, is loaded from where this one was.

    Args:
        classes: names and colors of the labels in the masks.
        preprocessing: brings an image to the network's size.
    """

    backend: str
    """Name in `zoo.predictors.backends`."""

    def __init__(self, classes: Classes, preprocessing: Preprocessing) -> None:
        self.classes = classes
        self.preprocessing = preprocessing
        self.loader: Callable[[], Predictor] | None = None
        """Loads this model once more; None for one that was not loaded from a path."""

    def __reduce__(self) -> tuple[Callable[[], Predictor], tuple[Any, ...]]:
        """Return how a copy is made.

        Raises:
            BundleError: it was not loaded from a path.
        """
        if self.loader is None:
            raise BundleError(
                f"this {self.backend} model was not loaded from a path and cannot be copied or pickled: load "
                f"it with zoo.load"
            )
        return self.loader, ()

    @property
    def description(self) -> str:
        """Return what runs where, e.g. `ONNX Runtime CPUExecutionProvider`."""
        return self.backend

    @property
    def limits(self) -> Limits:
        """Return the shapes that are taken: any, unless the network or a backend's file says otherwise."""
        return Limits()

    @property
    def available(self) -> tuple[str, ...]:
        """Return the names of the outputs that `infer` gives: masks only, unless a backend has more."""
        return (MASK,)

    @property
    def precision(self) -> str:
        """Return the precision of weights and activations."""
        return "fp32"

    @property
    def build_seconds(self) -> float | None:
        """Return how long it took to build the file, None where nothing is built."""
        return None

    @abstractmethod
    def infer(self, images: NDArray[np.uint8], outputs: Sequence[str] = (MASK,)) -> dict[str, NDArray[Any]]:
        """Return outputs of a batch at its own size, by name: one pass, no resizing.

        Args:
            images: (B, H, W, 3) uint8 RGB.
            outputs: some of `available`.

        Returns:
            (B, H, W), of logits (B, K, H, W); types as `zoo.predictors.outputs` says.

        Raises:
            BundleError: an output that is not available.
        """

    def run(self, images: NDArray[np.uint8]) -> Mask:
        """Return the masks of a batch at its own size: no resizing.

        Args:
            images: (B, H, W, 3) uint8 RGB.

        Returns:
            (B, H, W) uint8, or int32 above 255 classes.
        """
        return self.infer(images)[MASK]

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Return (B, K, H, W) float32 class scores of a batch, or None if this model does not give them."""
        return self.infer(images, (LOGITS,))[LOGITS] if LOGITS in self.available else None

    def predict(self, image: NDArray[np.uint8]) -> Mask:
        """Return the mask of an image of any size, at the image's size.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (H, W) uint8, or int32 above 255 classes: labels 0..K-1.

        Raises:
            InvalidImageError: not a (H, W, 3) uint8 array, or of a size that is not taken.
        """
        return self.predict_outputs(image).mask

    def predict_outputs(self, image: NDArray[np.uint8], outputs: Sequence[str] = (MASK,)) -> Prediction:
        """Return outputs of an image of any size, at the image's size.

        Args:
            image: (H, W, 3) uint8 RGB.
            outputs: some of `available`.

        Raises:
            InvalidImageError: not a (H, W, 3) uint8 array, or of a size that is not taken.
            BundleError: an output that is not available.
        """
        found = Prediction(self.infer(self._batch(image), outputs))
        return found.at(0).resized((image.shape[0], image.shape[1]))

    def predict_with_confidence(self, image: NDArray[np.uint8]) -> Prediction:
        """Return mask and, if available, confidence of an image; see `predict_outputs`."""
        names = tuple(name for name in (MASK, CONFIDENCE) if name in self.available)
        return self.predict_outputs(image, names)

    def _batch(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an image at the network's size, as a batch of one."""
        check_image(image)
        height, width, _ = image.shape
        size = self.preprocessing.model_size(height, width)
        self.limits.check(size, (height, width))
        return resize_image(image, size)[None]
