"""Evaluation protocols: the size of an image at the network, and the label that its prediction is scored by.

The mIoU of a network depends on the protocol, and is meaningless without its name. A protocol takes an image
and a label of equal size and returns two masks of equal size.

`zoo.catalog.reported_protocols` gives the protocol of each paper, `COMMON` that of later work.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from zoo.catalog import reported_protocols
from zoo.classes import IGNORE
from zoo.errors import ZooError
from zoo.predictors.outputs import LOGITS, resize_output
from zoo.predictors.tiles import Tiling, predict_tiles
from zoo.preprocess import resize_image, resize_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo.classes import Mask
    from zoo.predictors.base import Predictor
    from zoo.preprocess import Preprocessing

    Image = NDArray[Any]
    Logits = NDArray[np.float32]

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
BACKGROUND = 0


class Scored(NamedTuple):
    """Label and prediction to be compared, of equal size."""

    label: NDArray[np.uint8]
    """(H, W) class ids 0..K-1 or `IGNORE`."""
    prediction: Mask
    """(H, W) class ids 0..K-1."""


class Protocol(ABC):
    """Prediction and scoring of one image."""

    @property
    def combines_logits(self) -> bool:
        """Return whether masks come from resized or averaged logits, not from the pixels of one pass."""
        return False

    @abstractmethod
    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        """Return label and prediction to be compared.

        Args:
            predictor: predictor of any backend; some protocols need logits.
            image: (H, W, C) of the format of the predictor.
            label: (H, W) uint8.

        Raises:
            ZooError: the protocol needs logits, and the artifact has only masks.
        """


class Whole(Protocol):
    """The image preprocessed as in production (`zoo.preprocess`), scored at the label's size."""

    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        return Scored(label, predictor.predict(image))


class Original(Protocol):
    """The whole image at its original size in one pass, scored at that size."""

    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        return Scored(label, predictor.run(image[None])[0])


@dataclass(frozen=True)
class SlidingWindows(Protocol):
    """Sliding windows of the training size, with a stride of 2/3, on the image at its original size.

    Args:
        fuse: whether to sum probabilities or logits where windows overlap. The mean of logits (U2PL) has the
            same largest class as their sum.
    """

    fuse: Literal["softmax", "logits"] = "softmax"
    combines_logits = True

    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        return Scored(label, _choose(self.scores(predictor, image)))

    def scores(self, predictor: Predictor, image: Image) -> Logits:
        """Return the sum over windows, (K, H, W) float32.

        The last window of a row or column is shifted into the image. An image smaller than the window is
        padded with the mean color on the right and at the bottom.
        """
        height, width = image.shape[:2]
        crop_height, crop_width = predictor.preprocessing.imgsz
        padded = pad(image, predictor.preprocessing)
        total = np.zeros((len(predictor.classes), *padded.shape[:2]), np.float32)
        for top in window_starts(padded.shape[0], crop_height):
            for left in window_starts(padded.shape[1], crop_width):
                window = np.s_[top : top + crop_height, left : left + crop_width]
                logits = _logits(predictor, padded[window])
                total[:, *window] += softmax(logits) if self.fuse == "softmax" else logits
        return total[:, :height, :width]


@dataclass(frozen=True)
class Resize(Protocol):
    """The image stretched to the training size.

    Args:
        scored: `resized` to resize the label too and score at the training size; `original` to resize the
            logits and score at the label's size.
    """

    scored: Literal["resized", "original"] = "resized"

    @property
    def combines_logits(self) -> bool:
        return self.scored == "original"

    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        size = predictor.preprocessing.imgsz
        resized = resize_image(image, size)
        if self.scored == "resized":
            return Scored(resize_mask(label, size), predictor.run(resized[None])[0])
        return Scored(label, _choose(_logits(predictor, resized, label.shape)))


@dataclass(frozen=True)
class CenterCrop(Protocol):
    """The center crop of the image, at the training size; a smaller image is padded on all sides.

    Args:
        short_side: whether to first scale the image so that the crop just fits inside.
        pad_label: label of padding: `IGNORE`, or class 0 as in U2PL's code.
    """

    short_side: bool = False
    pad_label: int = IGNORE

    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        size = predictor.preprocessing.imgsz
        if self.short_side:
            scale = max(size[0] / image.shape[0], size[1] / image.shape[1])
            scaled = round(image.shape[0] * scale), round(image.shape[1] * scale)
            image, label = resize_image(image, scaled), resize_mask(label, scaled)
        cropped = blank(predictor.preprocessing, size)
        expected = np.full(size, self.pad_label, np.uint8)
        source, target = zip(*map(middle, image.shape[:2], size), strict=True)
        cropped[target] = image[source]
        expected[target] = label[source]
        return Scored(expected, predictor.run(cropped[None])[0])


class Padded(Protocol):
    """The image padded on the right and bottom to at least the training size, scored at its original size."""

    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        mask = predictor.run(pad(image, predictor.preprocessing)[None])[0]
        return Scored(label, mask[: image.shape[0], : image.shape[1]])


class HalfSize(Protocol):
    """Image and label at half their size, scored at that size."""

    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        size = max(1, image.shape[0] // 2), max(1, image.shape[1] // 2)
        return Scored(resize_mask(label, size), predictor.run(resize_image(image, size)[None])[0])


class MultiScale(Protocol):
    """Softmax summed over six scales of the production size, with flips, scored at the label's size."""

    combines_logits = True

    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        total = np.zeros((len(predictor.classes), *label.shape), np.float32)
        size = predictor.preprocessing.model_size(*image.shape[:2])
        for scale in SCALES:
            scaled = resize_image(image, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))
            for mirrored in (scaled, scaled[:, ::-1]):
                logits = _logits(predictor, np.ascontiguousarray(mirrored), label.shape)
                total += softmax(logits if mirrored is scaled else logits[..., ::-1])
        return Scored(label, _choose(total))


@dataclass(frozen=True)
class Tiles(Protocol):
    """The image at its original size, in overlapping tiles whose logits are blended."""

    tiling: Tiling
    combines_logits = True

    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        return Scored(label, predict_tiles(predictor, image, self.tiling).mask)


PROTOCOLS: dict[str, Protocol] = {
    "whole": Whole(),
    "original": Original(),
    "slide": SlidingWindows(),
    "slide-logits": SlidingWindows("logits"),
    "resize": Resize(),
    "resize-original": Resize("original"),
    "center-crop": CenterCrop(),
    "center-crop-background": CenterCrop(pad_label=BACKGROUND),
    "short-side-crop": CenterCrop(short_side=True),
    "padded": Padded(),
    "half": HalfSize(),
    "multi-scale": MultiScale(),
}

ABOUT = {
    "whole": "scaled as in production, scored at the label's size",
    "original": "the image at its original size in one pass",
    "slide": "windows of the training size at a stride of 2/3, softmax summed",
    "slide-logits": "the same, logits summed",
    "resize": "image and label stretched to the training size",
    "resize-original": "the image stretched to the training size, scored at the label's size",
    "center-crop": "the center crop at the training size",
    "center-crop-background": "the same, padding scored as class 0",
    "short-side-crop": "the short side scaled to the training size, then the center crop",
    "padded": "the image padded to the training size, scored at its original size",
    "half": "image and label at half their size",
    "multi-scale": f"softmax summed over scales {SCALES[0]:g} to {SCALES[-1]:g} and flipped images",
}

ABOUT_TILES = "tiles of the image at its original size, logits blended"

COMMON = {"voc": "original", "cityscapes": "slide"}
"""Protocol that work after these papers reports, by data set."""


def protocol_of(name: str) -> Protocol:
    """Return the protocol of a name, e.g. `whole`, or of tiles, e.g. `tile-1024-0.25`."""
    return PROTOCOLS[name] if name in PROTOCOLS else Tiles(Tiling.named(name))


def _logits(predictor: Predictor, image: Image, size: tuple[int, ...] | None = None) -> Logits:
    """Return the (K, H, W) logits of an image, resized to (height, width) `size` if given."""
    logits = predictor.logits(image[None])
    if logits is None:
        raise ZooError(
            f"this protocol needs logits, but this {predictor.backend} artifact returns only masks: evaluate "
            f"the bundle instead, or export again with --output logits"
        )
    found: Logits = logits[0]
    return found if size is None else resize_output(LOGITS, found, (size[0], size[1]))


def _choose(scores: Logits) -> Mask:
    mask: Mask = scores.argmax(axis=0).astype(np.uint8 if len(scores) <= IGNORE else np.int32)
    return mask


def users(name: str) -> str:
    """Return which work reports figures under a protocol, e.g. `eln on voc`; empty if none does."""
    papers = [f"{method} on {data}" for (method, data), used in reported_protocols().items() if used == name]
    later = [f"later work on {data}" for data, used in COMMON.items() if used == name]
    return ", ".join([*papers, *later])


def window_starts(length: int, crop: int) -> list[int]:
    """Return the starts of windows of size `crop` along an axis of `length` >= `crop`, at a stride of 2/3.

    Example:
        >>> window_starts(10, 6)
        [0, 4]
        >>> window_starts(11, 6)
        [0, 4, 5]
    """
    stride = math.ceil(crop * 2 / 3)
    count = math.ceil((length - crop) / stride) + 1
    return [min(index * stride, length - crop) for index in range(count)]


def pad(image: Image, preprocessing: Preprocessing) -> Image:
    """Return the image padded with the mean color on the right and bottom to at least the training size."""
    height, width = np.maximum(image.shape[:2], preprocessing.imgsz).tolist()
    padded = blank(preprocessing, (height, width))
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


def blank(preprocessing: Preprocessing, size: tuple[int, int]) -> Image:
    """Return an image of the mean color, which normalization maps to about zero."""
    return preprocessing.format.filled(size, preprocessing.color)


def softmax(logits: Logits) -> Logits:
    """Return probabilities over the first axis."""
    powers: Logits = np.exp(logits - logits.max(axis=0, keepdims=True))
    probabilities: Logits = powers / powers.sum(axis=0, keepdims=True)
    return probabilities


def middle(length: int, size: int) -> tuple[slice, slice]:
    """Return the slice of the center `size` of an axis of `length`, and its place in an axis of `size`."""
    extent = min(length, size)
    source, target = (length - extent) // 2, (size - extent) // 2
    return slice(source, source + extent), slice(target, target + extent)
