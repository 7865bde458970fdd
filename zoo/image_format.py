"""Format of the images of a data set and of its models: channels, element type, and range of values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from zoo.errors import InvalidImageError
from zoo.frozen import Frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

Dtype = Literal["uint8", "uint16", "float32"]

MOST_CHANNELS = 1024

FULL: dict[Dtype, tuple[float, float]] = {"uint8": (0, 255), "uint16": (0, 65535)}
"""Ranges of the integer types."""

STRETCH = (2, 98)
"""Percentiles of an image between which its values are displayed."""


class ImageFormat(Frozen):
    """Format of images; the default is 8-bit RGB.

    Values are scaled such that `ranges` becomes 0..1, and clipped there, before they are normalized.

    Args:
        channels: number of channels.
        dtype: element type of the arrays.
        ranges: lowest and highest value of each channel; None for those of the type or, if `percentiles` is
            set, until they are measured.
        percentiles: percentiles of the values of the training pool that `ranges` is measured as.
        shown: channels displayed as red, green and blue; None for the first three.
    """

    channels: int = Field(3, ge=1, le=MOST_CHANNELS)
    dtype: Dtype = "uint8"
    ranges: tuple[tuple[float, float], ...] | None = None
    percentiles: tuple[float, float] | None = None
    shown: tuple[int, int, int] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ranges is not None and len(self.ranges) != self.channels:
            raise ValueError(f"got {len(self.ranges)} ranges, expected {self.channels}, one for each channel")
        if any(not low < high for low, high in self.ranges or ()):
            raise ValueError(f"got the ranges {self.ranges}, expected the lower value first")
        return self

    @property
    def is_rgb(self) -> bool:
        """Return whether images are 8-bit RGB, of all values."""
        return self.channels == 3 and self.dtype == "uint8" and self.ranges is None

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Return the lowest and the highest value of each channel."""
        return self.ranges or (FULL[self.dtype],) * self.channels

    @property
    def clips(self) -> bool:
        """Return whether images may have values outside `bounds`."""
        return any(each != FULL.get(self.dtype) for each in self.bounds)

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """Return the element type in NumPy."""
        return np.dtype(self.dtype)

    @property
    def pixel_bytes(self) -> int:
        """Return the size of a pixel in memory."""
        return self.channels * self.numpy.itemsize

    def zeros(self, shape: tuple[int, int, int]) -> NDArray[np.generic]:
        """Return a batch of images of zeros, (B, H, W, C), by (B, H, W)."""
        return np.zeros((*shape, self.channels), self.dtype)

    def filled(self, size: tuple[int, int], color: tuple[float, ...]) -> NDArray[np.generic]:
        """Return an image of one color, (H, W, C)."""
        return np.tile(np.array(color, self.dtype), (*size, 1))

    def fits(self, other: ImageFormat) -> bool:
        """Return whether arrays of one format are arrays of the other, whatever their ranges."""
        return (self.channels, self.dtype) == (other.channels, other.dtype)

    def __str__(self) -> str:
        return f"{self.channels} channel{'s' * (self.channels != 1)} of {self.dtype}"


RGB = ImageFormat()


def displayed(image: NDArray[np.generic], format_: ImageFormat) -> NDArray[np.uint8]:
    """Return a picture of an image, (H, W, 3) uint8: RGB itself, or three of its channels.

    An image of one or two channels is shown in gray, by the first. Values other than 8-bit ones are stretched
    between the `STRETCH` percentiles of each shown channel.

    Args:
        image: (H, W, C) of the format.
        format_: format of the image.
    """
    if format_.is_rgb:
        return image  # type: ignore[return-value] # of this format
    first = (0, 1, 2) if format_.channels > 2 else (0, 0, 0)
    shown = image[..., list(format_.shown or first)]
    if shown.dtype == np.uint8:
        return np.ascontiguousarray(shown)
    values = shown.astype(np.float32)
    low, high = np.percentile(values, STRETCH, axis=(0, 1))
    scaled = (values - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    picture: NDArray[np.uint8] = np.rint(255 * scaled.clip(0, 1)).astype(np.uint8)
    return picture


def check_finite(image: NDArray[np.generic], name: str) -> None:
    """Raise if an image has values that are not finite.

    Raises:
        InvalidImageError: it has NaN or infinite values.
    """
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        count = int((~np.isfinite(image)).sum())
        raise InvalidImageError(
            f"{name} has {count} values that are NaN or infinite, expected finite ones: replace them, such "
            f"as by the lowest value"
        )
