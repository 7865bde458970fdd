"""Sources for evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zoo.classes import IGNORE, Classes
from zoo.data.source import Source, Split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Images = NDArray[np.uint8]
    Masks = NDArray[np.uint8]


class Noise(Source):
    """Random images of several sizes and random masks."""

    SIZES = ((40, 90), (64, 64), (100, 70))

    def __init__(self, names: tuple[str, ...], highest: int | None = None) -> None:
        super().__init__("noise", Classes.of(names))
        self.highest = len(names) if highest is None else highest

    def ids(self, split: Split) -> tuple[str, ...]:
        return ("0", "1", "2") if split == "val" else ()

    def read_image(self, id_: str) -> Images:
        return np.random.default_rng(int(id_)).integers(0, 256, (*self.SIZES[int(id_)], 3), np.uint8)

    def read_mask(self, id_: str) -> Masks:
        mask = np.random.default_rng(int(id_)).integers(0, self.highest, self.SIZES[int(id_)], np.uint8)
        mask[:3] = IGNORE
        return mask
