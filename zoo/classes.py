"""Class names and colors, and the label value that losses and metrics ignore."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORE = 255
"""Label of a pixel whose class is unknown (void, border, padding)."""

Color = tuple[int, int, int]

Mask = NDArray[np.uint8 | np.int32]
"""Class ids of pixels: uint8, or int32 for models with more than 255 classes."""


@dataclass(frozen=True)
class Classes:
    """The classes of a data set, in label order.

    Args:
        names: one name for each label 0..K-1.
        palette: one RGB color (0..255) for each label.
    """

    names: tuple[str, ...]
    palette: tuple[Color, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.palette):
            raise ValueError(f"{len(self.names)} class names but {len(self.palette)} colors")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, names: tuple[str, ...]) -> Classes:
        """Return classes of these names with the colors of the VOC palette."""
        return cls(names, default_palette(len(names)))

    def colorize(self, mask: Mask) -> NDArray[np.uint8]:
        """Return the colors of a mask; `IGNORE` is white unless it is the id of a class.

        Args:
            mask: (H, W) class ids 0..K-1 or `IGNORE`.

        Returns:
            (H, W, 3) uint8.
        """
        table = np.zeros((max(len(self), 256), 3), np.uint8)
        table[IGNORE] = 255
        table[: len(self)] = self.palette
        return table[mask]


def default_palette(count: int) -> tuple[Color, ...]:
    """Return the first `count` colors of the palette of PASCAL VOC (label 0 is black)."""
    return tuple(_voc_color(label) for label in range(count))


def _voc_color(label: int) -> Color:
    """Return the VOC color of a label: each three of its bits give a bit of each channel, highest first."""
    color = [0, 0, 0]
    for shift in range(7, -1, -1):
        for channel in range(3):
            color[channel] |= ((label >> channel) & 1) << shift
        label >>= 3
    return color[0], color[1], color[2]
