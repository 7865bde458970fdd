"""Corrupted images, for the evaluation of models on images unlike those of the training.

Noise, contrast and JPEG artifacts have the severities 1 to 5 of ImageNet-C (Hendrycks & Dietterich, ICLR
2019); blur and darkness have their own.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from zoo.data.source import Source
from zoo.errors import ZooError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from zoo.data.source import Split

    Pixels = NDArray[np.uint8]

NOISE = 0.08, 0.12, 0.18, 0.26, 0.38
"""Standard deviation of Gaussian noise, for pixels in 0..1."""
CONTRAST = 0.4, 0.3, 0.2, 0.1, 0.05
"""Share of the contrast that is left."""
JPEG = 25, 18, 15, 10, 7
"""Quality of the compression."""
BLUR = 0.5, 1.0, 1.5, 2.0, 3.0
"""Standard deviation of the blur, in percent of the longer side."""
DARK = 0.6, 0.45, 0.3, 0.2, 0.1
"""Share of the brightness that is left."""


def _noise(image: Pixels, severity: int) -> Pixels:
    """Add Gaussian noise, the same for the same image."""
    seed = int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:8])
    noise = np.random.default_rng(seed).normal(0, 255 * NOISE[severity - 1], image.shape)
    return _clipped(image + noise)


def _contrast(image: Pixels, severity: int) -> Pixels:
    mean = image.mean(axis=(0, 1))
    return _clipped((image - mean) * CONTRAST[severity - 1] + mean)


def _jpeg(image: Pixels, severity: int) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=JPEG[severity - 1])
    return np.array(Image.open(file))


def _blur(image: Pixels, severity: int) -> Pixels:
    radius = BLUR[severity - 1] / 100 * max(image.shape[:2])
    return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def _dark(image: Pixels, severity: int) -> Pixels:
    return _clipped(image * DARK[severity - 1])


def _clipped(image: NDArray[np.floating]) -> Pixels:
    found: Pixels = np.rint(image).clip(0, 255).astype(np.uint8)
    return found


CORRUPTIONS: dict[str, Callable[[Pixels, int], Pixels]] = {
    "noise": _noise,
    "blur": _blur,
    "dark": _dark,
    "contrast": _contrast,
    "jpeg": _jpeg,
}


class Corrupted(Source):
    """A source whose images are corrupted.

    Args:
        source: source of the images.
        text: kind and severity, e.g. `noise:3`.

    Raises:
        ZooError: an unknown kind or severity, or images that are not 8-bit RGB.
    """

    def __init__(self, source: Source, text: str) -> None:
        kind, severity = parse_corruption(text)
        if not source.format.is_rgb:
            raise ZooError(
                f"--corrupt {text} is defined for 8-bit RGB, got {source.format} of {source.spec}: leave it "
                f"out"
            )
        super().__init__(f"{source.spec} with {text}", source.classes)
        self.source, self.severity = source, severity
        self.corrupt = CORRUPTIONS[kind]

    def ids(self, split: Split) -> tuple[str, ...]:
        return self.source.ids(split)

    def read_image(self, id_: str) -> Pixels:
        return self.corrupt(self.source.read_image(id_), self.severity)

    def read_mask(self, id_: str) -> NDArray[np.uint8]:
        return self.source.read_mask(id_)


def parse_corruption(text: str) -> tuple[str, int]:
    """Return kind and severity of a text such as `noise:3`.

    Raises:
        ZooError: an unknown kind or severity.
    """
    kind, _, severity = text.partition(":")
    if kind not in CORRUPTIONS or severity not in {"1", "2", "3", "4", "5"}:
        raise ZooError(
            f"--corrupt {text} is unknown, expected {', '.join(CORRUPTIONS)} with a severity from 1 to 5, "
            f"e.g. noise:3"
        )
    return kind, int(severity)
