"""Evaluation protocols: at which size the network sees an image, and what its prediction is compared with.

The same network has another mIoU under each: a figure means nothing without the name of its protocol. Each
takes an image and a label of one size and returns two masks of one size.

Which paper used which: `zoo.catalog.reported_protocols`. What later work settled on: `COMMON`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from zoo.catalog import reported_protocols
from zoo.classes import IGNORE
from zoo.errors import ZooError
from zoo.evaluation.windows import mean_color, middle, pad, softmax, window_starts
from zoo.preprocess import resize_image, resize_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo.classes import Mask
    from zoo.predictors.base import Predictor

    Image = NDArray[np.uint8]
    Logits = NDArray[np.float32]

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
BACKGROUND = 0


class Scored(NamedTuple):
    """What a protocol compares: two masks of one size."""

    label: NDArray[np.uint8]
    """(H, W), labels 0..K-1 or `IGNORE`."""
    prediction: Mask
    """(H, W), labels 0..K-1."""


class Protocol(ABC):
    """How one image is predicted and scored."""

    @abstractmethod
    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        """Return what is compared.

        Args:
            predictor: any backend; some protocols need one that gives logits.
            image: (H, W, 3) uint8 RGB.
            label: (H, W) uint8.

        Raises:
            ZooError: logits are needed, and the artifact gives masks only.
        """


class Whole(Protocol):
    """As in production (`zoo.preprocess`); scored at the label's size."""

    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        return Scored(label, predictor.predict(image))


class Original(Protocol):
    """The whole image at its own size in one pass; scored there."""

    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        return Scored(label, predictor.run(image[None])[0])


@dataclass(frozen=True)
class Slide(Protocol):
    """Windows of the training crop, two thirds of it apart, over the image at its own size.

    Args:
        fuse: whether probabilities or logits are summed where windows overlap. A mean of logits over windows
            (U2PL) has the same largest class as their sum.
    """

    fuse: Literal["softmax", "logits"] = "softmax"

    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        return Scored(label, _choose(self.scores(predictor, image)))

    def scores(self, predictor: Predictor, image: Image) -> Logits:
        """Return the (K, H, W) float32 sum over windows.

        The last window of a row or column is moved back inside the image. An image smaller than the crop is
        padded with the mean color on the right and below.
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
    """The image squeezed to the training size, aspect not kept.

    Args:
        scored: at that size, the label resized as well, or at the label's, the logits enlarged.
    """

    scored: Literal["resized", "original"] = "resized"

    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        size = predictor.preprocessing.imgsz
        resized = resize_image(image, size)
        if self.scored == "resized":
            return Scored(resize_mask(label, size), predictor.run(resized[None])[0])
        return Scored(label, _choose(_enlarged(_logits(predictor, resized), label.shape)))


@dataclass(frozen=True)
class CenterCrop(Protocol):
    """The middle of the image, in the training size; a smaller image is padded on all sides.

    Args:
        short_side: scale the image so that its shorter side is that of the training size first.
        pad_label: what padding counts as: nothing, or class 0 as in the authors' code of U2PL.
    """

    short_side: bool = False
    pad_label: int = IGNORE

    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        size = predictor.preprocessing.imgsz
        if self.short_side:
            scale = max(size[0] / image.shape[0], size[1] / image.shape[1])
            scaled = round(image.shape[0] * scale), round(image.shape[1] * scale)
            image, label = resize_image(image, scaled), resize_mask(label, scaled)
        cropped = np.empty((*size, 3), np.uint8)
        cropped[:] = mean_color(predictor.preprocessing)
        expected = np.full(size, self.pad_label, np.uint8)
        source, target = zip(*map(middle, image.shape[:2], size), strict=True)
        cropped[target] = image[source]
        expected[target] = label[source]
        return Scored(expected, predictor.run(cropped[None])[0])


class Padded(Protocol):
    """The image padded on the right and below to at least the training size; scored at its own."""

    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        mask = predictor.run(pad(image, predictor.preprocessing)[None])[0]
        return Scored(label, mask[: image.shape[0], : image.shape[1]])


class Half(Protocol):
    """Image and label at half their size; scored there."""

    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        size = max(1, image.shape[0] // 2), max(1, image.shape[1] // 2)
        return Scored(resize_mask(label, size), predictor.run(resize_image(image, size)[None])[0])


class MultiScale(Protocol):
    """Softmax summed over six scales of the production size, also mirrored; scored at the label's size."""

    def score(self, predictor: Predictor, image: Image, label: NDArray[np.uint8]) -> Scored:
        total = np.zeros((len(predictor.classes), *label.shape), np.float32)
        size = predictor.preprocessing.model_size(*image.shape[:2])
        for scale in SCALES:
            scaled = resize_image(image, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))
            for mirrored in (scaled, scaled[:, ::-1]):
                logits = _enlarged(_logits(predictor, np.ascontiguousarray(mirrored)), label.shape)
                total += softmax(logits if mirrored is scaled else logits[..., ::-1])
        return Scored(label, _choose(total))


PROTOCOLS: dict[str, Protocol] = {
    "whole": Whole(),
    "original": Original(),
    "slide": Slide(),
    "slide-logits": Slide("logits"),
    "resize": Resize(),
    "resize-original": Resize("original"),
    "center-crop": CenterCrop(),
    "center-crop-background": CenterCrop(pad_label=BACKGROUND),
    "short-side-crop": CenterCrop(short_side=True),
    "padded": Padded(),
    "half": Half(),
    "multi-scale": MultiScale(),
}

ABOUT = {
    "whole": "scaled as in production, scored at the label's size",
    "original": "the image at its own size in one pass",
    "slide": "windows of the training size, 2/3 of it apart, softmax summed",
    "slide-logits": "the same, logits summed",
    "resize": "image and label squeezed to the training size",
    "resize-original": "the image squeezed to the training size, scored at the label's size",
    "center-crop": "the middle, in the training size",
    "center-crop-background": "the same, padding scored as class 0",
    "short-side-crop": "the short side scaled to the training size, then the middle",
    "padded": "the image padded to the training size, scored at its own",
    "half": "image and label at half their size",
    "multi-scale": f"softmax summed over scales {SCALES[0]:g} to {SCALES[-1]:g} and mirrored images",
}

COMMON = {"voc": "original", "cityscapes": "slide"}
"""What work after these papers reports, by data set."""


def _logits(predictor: Predictor, image: Image) -> Logits:
    logits = predictor.logits(image[None])
    if logits is None:
        raise ZooError(
            f"this protocol needs logits, but this {predictor.backend} artifact returns only masks: evaluate "
            f"the bundle instead, or export again with --output logits"
        )
    found: Logits = logits[0]
    return found


def _enlarged(logits: Logits, size: tuple[int, ...]) -> Logits:
    """Return (K, H, W) logits at another size, as the networks resize theirs."""
    import torch

    from zoo.models.decoders.decoder import resize_logits

    return resize_logits(torch.from_numpy(logits)[None], (size[0], size[1]))[0].numpy()


def _choose(scores: Logits) -> Mask:
    mask: Mask = scores.argmax(axis=0).astype(np.uint8 if len(scores) <= IGNORE else np.int32)
    return mask


def users(name: str) -> str:
    """Return who reports figures under a protocol, e.g. `eln on voc`; empty if none of the papers does."""
    papers = [f"{method} on {data}" for (method, data), used in reported_protocols().items() if used == name]
    later = [f"later work on {data}" for data, used in COMMON.items() if used == name]
    return ", ".join([*papers, *later])
