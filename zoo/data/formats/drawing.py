"""Masks drawn from the regions of an image: polygons and run-length encodings."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zoo.classes import IGNORE
from zoo.data.formats.regions import check_near
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.data.data_file import Order


MOST_CODES = 8
"""Largest number of characters of a packed run length."""


class Region(NamedTuple):
    """An annotated object or crowd."""

    segmentation: list[list[float]] | dict[str, Any]
    """Polygons, or run-length encoding as pycocotools reads it."""
    label: int
    """1..K-1, `IGNORE` for a crowd, 0 for a category named background."""
    area: float | None = None
    """Number of pixels according to the file."""


class ImageRegions(NamedTuple):
    """The regions of an image, from which its mask is drawn."""

    where: str
    """File and image, for messages."""
    height: int
    width: int
    regions: tuple[Region, ...]
    order: Order = "area"

    @property
    def paths(self) -> tuple[Path, ...]:
        """Return no files: the regions are in memory."""
        return ()

    def draw(self) -> NDArray[np.uint8]:
        """Return the mask, (H, W) uint8, 0..K-1 or `IGNORE`.

        Raises:
            DatasetError: a run-length encoding that does not fit the image.
        """
        return self.draw_counted().mask

    def draw_counted(self) -> Drawn:
        """Return the mask, and in how far it differs from the regions.

        Raises:
            DatasetError: a run-length encoding that does not fit the image.
        """
        from pycocotools.mask import area, decode, frPyObjects, merge

        mask, overlap = np.zeros((self.height, self.width), np.uint8), 0
        try:
            runs = []
            for region in self.regions:
                found = region.segmentation
                if isinstance(found, dict):
                    self._check_runs(found)
                else:
                    check_near(found)
                if isinstance(found, list) or isinstance(found["counts"], list):
                    found = frPyObjects(found, self.height, self.width)
                runs.append(merge(found) if isinstance(found, list) else found)
            sizes = [int(area(run)) for run in runs]
            weights = [-size if self.order == "area" else 0 for size in sizes]
            # crowds lowest, then the larger objects; or else as they come
            order = sorted(
                range(len(runs)),
                key=lambda index: (
                    self.order == "file" or self.regions[index].label != IGNORE,
                    weights[index],
                ),
            )
            for index in order:
                inside, label = decode(runs[index]).astype(bool), self.regions[index].label
                overlap += int(np.count_nonzero(~np.isin(mask[inside], (0, label, IGNORE))))
                mask[inside] = label
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            raise DatasetError(
                f"{self.where}: got a segmentation that cannot be drawn ({error}), expected polygons or runs "
                f"of {self.width}x{self.height} pixels: correct or remove it"
            ) from error
        areas = [region.area for region in self.regions]
        differ = sum(_differs(size, area) for size, area in zip(sizes, areas, strict=True))
        return Drawn(mask, overlap, differ)

    def _check_runs(self, found: dict[str, Any]) -> None:
        """Raise unless runs cover the image: pycocotools returns undefined pixels after the last one.

        Raises:
            ValueError: runs of another size.
        """
        counts, size = found["counts"], (self.height, self.width)
        runs = counts if isinstance(counts, list) else unpacked_runs(counts)
        if tuple(found["size"]) != size or min(runs, default=0) < 0 or sum(runs) != self.height * self.width:
            height, width = found["size"]
            raise ValueError(f"runs of {sum(runs)} pixels for {width}x{height}")


def unpacked_runs(text: str | bytes) -> list[int]:
    """Return the run lengths that a string of COCO packs, 5 bits a character.

    From the fourth on, each is stored as its difference to the one two places before it.
    """
    codes = np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends + 1 - starts
    if not len(ends) or ends[-1] != len(codes) - 1 or codes.min() < 0 or lengths.max() > MOST_CODES:
        raise ValueError("a string that packs no runs")
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 31) << (5 * places), starts)
    values -= ((codes[ends] & 16) > 0) * (1 << (5 * lengths))
    values[2::2], values[1::2] = np.cumsum(values[2::2]), np.cumsum(values[1::2])
    return list(map(int, values))


class Drawn(NamedTuple):
    """A mask drawn from regions."""

    mask: NDArray[np.uint8]
    overlap: int
    """Number of pixels that objects of several classes cover."""
    areas: int
    """Number of regions whose area is not the one in the file."""


def _differs(size: int, area: float | None) -> bool:
    """Return whether the drawn size of a region is not its area in the file, up to pixels of its outline."""
    return area is not None and abs(size - area) > 0.1 * size + 2 * math.sqrt(size)


def check_can_draw(path: Path) -> None:
    """Raise unless the library that draws regions is installed.

    Raises:
        DatasetError: pycocotools is not installed.
    """
    if find_spec("pycocotools") is None:
        raise DatasetError(
            f"{path}: got COCO annotations or polygons, expected pycocotools to draw them: "
            f"pip install 'semiseg-zoo[coco]'"
        )
