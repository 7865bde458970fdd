"""Interface of all backends: images in, masks out, as numpy arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.errors import BundleError
from zoo.predictors.limits import Limits
from zoo.predictors.outputs import (
    CONFIDENCE,
    LOGITS,
    MASK,
    RELIABILITY,
    check_unknown,
    resize_output,
    without_unsure,
)
from zoo.preprocess import Preprocessing, check_image, resize_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from zoo.bundle.reliability import Calibration
    from zoo.classes import Classes, Mask
    from zoo.image_format import ImageFormat


@dataclass(frozen=True, eq=False)
class Prediction:
    """Outputs of a model for one image or a batch; unpacks as `mask, confidence = prediction`.

    Args:
        outputs: outputs by name (`zoo.predictors.outputs`).
    """

    outputs: dict[str, NDArray[Any]]

    @property
    def mask(self) -> Mask:
        """Return the class of each pixel."""
        return self.outputs[MASK]

    @property
    def confidence(self) -> NDArray[np.uint8] | None:
        """Return the probability of each pixel's class, 0..255; None if it was not predicted."""
        return self.outputs.get(CONFIDENCE)

    def __iter__(self) -> Iterator[NDArray[Any] | None]:
        """Iterate over mask and confidence."""
        return iter((self.mask, self.confidence))

    def at(self, index: int) -> Prediction:
        """Return the prediction of one image of a batch."""
        return Prediction({name: values[index] for name, values in self.outputs.items()})

    def resized(self, size: tuple[int, int]) -> Prediction:
        """Return the prediction of one image at (height, width) `size`."""
        return Prediction({name: resize_output(name, values, size) for name, values in self.outputs.items()})


class Predictor(ABC):
    """A loaded model, safe to call from any number of threads.

    A backend implements `infer` on a batch at the network's size; the rest is shared. The caller owns the
    returned arrays: no later call changes them.

    In a forked process it runs on the CPU only; a compiled model or OpenVINO raises an error there. A copy,
    or an unpickled predictor, is loaded from the path of this one.

    Args:
        classes: names and colors of the labels in the masks.
        preprocessing: resizing and normalization of the network's input.
    """

    backend: str
    """Name in `zoo.predictors.backends`."""

    def __init__(self, classes: Classes, preprocessing: Preprocessing) -> None:
        self.classes = classes
        self.preprocessing = preprocessing
        self.calibration: Calibration | None = None
        """Calibration of the output `reliability`; None if the model has none, or returns it itself."""
        self.loader: Callable[[], Predictor] | None = None
        """Loads this model again; None if it was not loaded from a path."""

    def __reduce__(self) -> tuple[Callable[[], Predictor], tuple[Any, ...]]:
        """Return a copy as a call of the loader.

        Raises:
            BundleError: the model was not loaded from a path.
        """
        if self.loader is None:
            raise BundleError(
                f"this {self.backend} model was not loaded from a path and cannot be copied or pickled: load "
                f"it with zoo.load"
            )
        return self.loader, ()

    @property
    def description(self) -> str:
        """Return runtime and device, e.g. `ONNX Runtime CPUExecutionProvider`."""
        return self.backend

    @property
    def format(self) -> ImageFormat:
        """Return the format of the images that the model takes."""
        return self.preprocessing.format

    @property
    def limits(self) -> Limits:
        """Return the accepted shapes: any, unless the network or the file limits them."""
        return Limits()

    def blank(self) -> NDArray[Any]:
        """Return the smallest accepted batch of blank images, at the training crop's size where accepted."""
        limits = self.limits
        return self.format.zeros((limits.low[0], *limits.clamp(self.preprocessing.imgsz)))

    @property
    def available(self) -> tuple[str, ...]:
        """Return the names of the outputs of `infer`: only masks, unless a backend has more."""
        return (MASK,)

    @property
    def precision(self) -> str:
        """Return the precision of weights and activations."""
        return "fp32"

    @property
    def build_seconds(self) -> float | None:
        """Return the duration of the file's build; None if the backend builds nothing."""
        return None

    @abstractmethod
    def infer(self, images: NDArray[Any], outputs: Sequence[str] = (MASK,)) -> dict[str, NDArray[Any]]:
        """Return outputs of a batch by name, from one forward pass without resizing.

        Args:
            images: (B, H, W, C) of `format`: uint8 RGB unless the model takes others.
            outputs: names out of `available`.

        Returns:
            (B, H, W), or (B, K, H, W) for logits; `zoo.predictors.outputs` defines the types.

        Raises:
            BundleError: an output that is not available.
        """

    def run(self, images: NDArray[Any]) -> Mask:
        """Return the masks of a batch, without resizing.

        Args:
            images: (B, H, W, C) of `format`: uint8 RGB unless the model takes others.

        Returns:
            (B, H, W) uint8, or int32 above 255 classes.
        """
        return self.infer(images)[MASK]

    def logits(self, images: NDArray[Any]) -> NDArray[np.float32] | None:
        """Return the logits of a batch, (B, K, H, W) float32; None if they are not available."""
        return self.infer(images, (LOGITS,))[LOGITS] if LOGITS in self.available else None

    def predict(self, image: NDArray[Any], unknown_below: float | None = None) -> Mask:
        """Return the mask of an image of any size, at the image's size.

        Args:
            image: (H, W, C) of `format`.
            unknown_below: reliability, 0 to 1, below which a pixel is 255, of a calibrated model; None for
                no such pixel.

        Returns:
            (H, W) uint8, or int32 above 255 classes: class ids 0..K-1.

        Raises:
            InvalidImageError: an array of another format, or a size outside `limits`.
            BundleError: `unknown_below` of a model without reliability or of more than 255 classes.
        """
        if unknown_below is None:
            return self.predict_outputs(image).mask
        check_unknown(unknown_below, self.classes)
        return without_unsure(self.predict_outputs(image, (MASK, RELIABILITY)).outputs, unknown_below)

    def predict_outputs(self, image: NDArray[Any], outputs: Sequence[str] = (MASK,)) -> Prediction:
        """Return outputs of an image of any size, at the image's size.

        Args:
            image: (H, W, C) of `format`.
            outputs: names out of `available`.

        Raises:
            InvalidImageError: an array of another format, or a size outside `limits`.
            BundleError: an output that is not available.
        """
        found = Prediction(self.infer(self._batch(image), outputs))
        return found.at(0).resized((image.shape[0], image.shape[1]))

    def predict_with_confidence(self, image: NDArray[Any]) -> Prediction:
        """Return mask and, if available, confidence of an image, as `predict_outputs` does."""
        names = tuple(name for name in (MASK, CONFIDENCE) if name in self.available)
        return self.predict_outputs(image, names)

    def _batch(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return an image at the network's size, as a batch of one."""
        check_image(image, self.format)
        height, width, _ = image.shape
        size = self.preprocessing.model_size(height, width)
        self.limits.check(size, (height, width))
        return resize_image(image, size)[None]
