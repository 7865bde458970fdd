"""Masks as the labeled regions of annotation tools, and back.

Tools draw regions on an empty image. The class `background`, if there is one, is what no region covers;
without it, uncovered pixels are `IGNORE`. A region that tools call `ignore` is `IGNORE` in either case.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zoo.classes import IGNORE
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    Region = NDArray[np.bool_]
    Point = tuple[float, float] | NDArray[np.float64]
    """x and y, in pixels."""

BACKGROUND = "background"
IGNORED = "ignore"
"""Name of the label of `IGNORE`, unless it is the name of a class."""
CORNERS = 64
"""Number of corners of a polygon that stands for an ellipse."""
FARTHEST = 1e6
"""Largest valid coordinate, in pixels."""


class Annotated(NamedTuple):
    """An image of an annotation file."""

    name: str
    """Path or address of the image as the file gives it."""
    mask: NDArray[np.uint8]
    """(H, W) uint8, 0..K-1 or `IGNORE`."""


class Labels:
    """Labels by the names in an annotation file.

    Args:
        names: class names, in label order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.blank = next((at for at, name in enumerate(names) if name.lower() == BACKGROUND), IGNORE)
        """Label of pixels that no region covers."""
        self._label_of = {IGNORED: IGNORE} | {name: label for label, name in enumerate(names)}

    def __getitem__(self, name: str) -> int:
        """Return the label of a name.

        Raises:
            ValueError: no class has this name.
        """
        if name not in self._label_of:
            raise ValueError(f"the label {name!r}, expected one of {', '.join(self._label_of)}")
        return self._label_of[name]

    def draw(self, size: tuple[int, int], regions: Iterable[tuple[str, Region]]) -> NDArray[np.uint8]:
        """Return the mask of regions, the later ones on top.

        Args:
            size: height and width of the image.
            regions: name and (H, W) bool pixels of each region.

        Raises:
            ValueError: no class has the name of a region.
        """
        mask = np.full(size, self.blank, np.uint8)
        for name, region in regions:
            mask[region] = self[name]
        return mask

    def regions(self, mask: NDArray[np.uint8]) -> Iterator[tuple[str, Region]]:
        """Yield the name and the pixels of each label in a mask that an empty image does not have."""
        for label in np.unique(mask).tolist():
            if label != self.blank:
                yield IGNORED if label == IGNORE else self.names[label], mask == label


def run_lengths(values: NDArray[np.bool_]) -> list[int]:
    """Return the lengths of runs of equal values, the first of them of zeros.

    Example:
        >>> run_lengths(np.array([1, 1, 0, 1], bool))
        [0, 2, 1, 1]
    """
    changes = np.flatnonzero(np.diff(values, prepend=False)).tolist()
    ends = [*changes, len(values)]
    return [end - begin for begin, end in zip([0, *changes], ends, strict=True)]


def from_run_lengths(lengths: Sequence[int], count: int) -> NDArray[np.bool_]:
    """Return the values of runs whose first is of zeros.

    Raises:
        ValueError: negative lengths, or lengths of another sum than `count`.
    """
    if min(lengths, default=0) < 0 or sum(lengths) != count:
        raise ValueError(f"runs of {sum(lengths)} pixels, expected {count}")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def check_near(polygons: Sequence[Any]) -> None:
    """Raise for corners that are not finite or far away, with which pycocotools hangs or ends the process.

    Raises:
        ValueError: such a corner.
    """
    for points in polygons:
        if not (np.abs(points) <= FARTHEST).all():
            raise ValueError(f"a corner that is not within {FARTHEST:g} pixels, expected it in the image")


def rectangle(left: float, top: float, right: float, bottom: float) -> NDArray[np.float64]:
    """Return the corners of a rectangle, (4, 2) x, y."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)


def ellipse(center: Point, radii: tuple[float, float]) -> NDArray[np.float64]:
    """Return corners of an ellipse, (`CORNERS`, 2) x, y.

    Args:
        center: x and y.
        radii: along x and along y.
    """
    angles = np.linspace(0, 2 * math.pi, CORNERS, endpoint=False)
    return np.asarray(center) + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def turned(corners: NDArray[np.float64], around: Point, degrees: float) -> NDArray[np.float64]:
    """Return corners turned around a point, clockwise as images are shown.

    Args:
        corners: (N, 2) x, y, y downwards.
        around: x and y of the point.
        degrees: angle.
    """
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    found: NDArray[np.float64] = (corners - around) @ [[cosine, sine], [-sine, cosine]] + around
    return found


def fill_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> Region:
    """Return the pixels inside polygons, each as x, y, x, y, ... in pixels, as pycocotools draws them.

    Raises:
        DatasetError: pycocotools is not installed.
        ValueError: fewer than three points.
    """
    if find_spec("pycocotools") is None:
        raise DatasetError("got polygons, expected pycocotools to draw them: pip install 'semiseg-zoo[coco]'")
    from pycocotools.mask import decode, frPyObjects, merge

    if any(len(points) < 6 or len(points) % 2 for points in polygons):
        raise ValueError("a polygon of fewer than three points, expected at least three")
    check_near(polygons)
    region: Region = decode(merge(frPyObjects([list(map(float, each)) for each in polygons], *size))) > 0
    return region
