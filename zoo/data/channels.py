"""Range, mean and standard deviation of each channel, measured on images that are not 8-bit RGB."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zoo.data.source import Source
    from zoo.image_format import ImageFormat
    from zoo.preprocess import Channels

MOST_IMAGES = 1000
"""Number of images that are read, evenly spaced in the pool."""
MOST_PIXELS = 4096
"""Number of pixels of an image that count, on a regular grid."""
SMALLEST_STD = 1e-3
"""Standard deviation, of values in 0..1, of a channel that hardly varies."""


class Measured(NamedTuple):
    """Format with the range of each channel, and their statistics on the scale on which that is 0..1."""

    format: ImageFormat
    mean: Channels
    std: Channels
    images: int
    """Number of images read."""

    def __str__(self) -> str:
        rows = zip(self.format.bounds, self.mean, self.std, strict=True)
        channels = (f"{low:g}..{high:g} (mean {mean:.3f}, std {std:.3f})" for (low, high), mean, std in rows)
        return f"{self.format}, ranges {', '.join(channels)}, of {self.images} images"


def measure(source: Source, ids: Sequence[str]) -> Measured:
    """Return the format of a source with ranges, mean and standard deviation of some of its images.

    Args:
        source: source of images that are not 8-bit RGB.
        ids: ids of the training pool.

    Raises:
        DatasetError: an image that cannot be read.
    """
    chosen = [
        ids[index] for index in np.unique(np.linspace(0, len(ids) - 1, MOST_IMAGES).round().astype(int))
    ]
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda id_: _sample(source.read_image(id_)), chosen))
    pixels = np.concatenate([each.pixels for each in found])  # (N, C)
    format_ = source.format
    if format_.ranges is None and format_.percentiles is not None:
        lows, highs = np.percentile(pixels.astype(np.float64), format_.percentiles, axis=0)
        if format_.percentiles[0] == 0:
            lows = np.min([each.low for each in found], axis=0)
        if format_.percentiles[1] == 100:
            highs = np.max([each.high for each in found], axis=0)
        # a channel of one value has a range of 1
        pairs = zip(lows.tolist(), highs.tolist(), strict=True)
        ranges = tuple((low, high if high > low else low + 1) for low, high in pairs)
        format_ = format_.model_copy(update={"ranges": ranges})
    low, high = np.array(format_.bounds).T
    scaled = ((pixels.astype(np.float64) - low) / (high - low)).clip(0, 1)
    mean, std = scaled.mean(axis=0), scaled.std(axis=0).clip(SMALLEST_STD)
    return Measured(format_, tuple(mean.tolist()), tuple(std.tolist()), len(chosen))


class _Sample(NamedTuple):
    pixels: NDArray[Any]
    """(N, C) values on a regular grid."""
    low: NDArray[Any]
    """(C,) lowest of all values."""
    high: NDArray[Any]


def _sample(image: NDArray[Any]) -> _Sample:
    step = 1
    while -(-image.shape[0] // step) * -(-image.shape[1] // step) > MOST_PIXELS:
        step += 1
    grid = image[::step, ::step].reshape(-1, image.shape[2])
    return _Sample(grid, image.min(axis=(0, 1)), image.max(axis=(0, 1)))
