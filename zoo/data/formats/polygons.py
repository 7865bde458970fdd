"""Outlines of regions as polygons along the edges of pixels, exact when drawn by pycocotools.

A polygon has no holes: a connected region with holes is cut into pieces that have none.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Region = NDArray[np.bool_]

RIGHT, DOWN, LEFT, UP = range(4)
TURNS = (1, 0, 3)
"""Directions to go on in at a corner, relative to the last one. Clockwise first: pixels that touch at a
corner are not connected."""


class Ring(NamedTuple):
    """A closed line along the edges of pixels, clockwise around pixels of the region."""

    points: NDArray[np.int64]
    """(N, 2) corners x, y."""
    pixel: tuple[int, int]
    """Row and column of a pixel of the region at the line."""
    area: int
    """Number of pixels inside, negative if they are a hole."""


def trace(region: Region) -> list[list[list[int]]]:
    """Return the connected parts of a region, each as polygons x, y, x, y, ... without holes.

    Args:
        region: (H, W) bool.
    """
    rings = list(_rings(region))
    outer = sorted((ring for ring in rings if ring.area > 0), key=lambda ring: ring.area)
    holes: list[list[Ring]] = [[] for _ in outer]
    if len(outer) < len(rings):
        filled = [_fill(ring) for ring in outer]
        for hole in (ring for ring in rings if ring.area < 0):
            inside = next(at for at, fill in enumerate(filled) if _contains(*fill, hole.pixel))
            holes[inside].append(hole)
    found = [_without_holes(ring, inner) for ring, inner in zip(outer, holes, strict=True)]
    return sorted(found, key=lambda parts: (parts[0][1], parts[0][0]))


def _without_holes(outer: Ring, holes: list[Ring]) -> list[list[int]]:
    """Return the polygons of a connected region, cut along the first row of one of its holes, if any."""
    if not holes:
        return [outer.points.ravel().tolist()]
    region, top, left = _fill(outer)
    for hole in holes:
        inner, y, x = _fill(hole)
        region[y - top : y - top + inner.shape[0], x - left : x - left + inner.shape[1]] ^= inner
    tops = sorted(int(hole.points[:, 1].min()) for hole in holes)
    cut = tops[len(tops) // 2] - top
    return [
        np.add(np.reshape(points, (-1, 2)), (left, top + shift)).ravel().tolist()
        for part, shift in ((region[:cut], 0), (region[cut:], cut))
        for points in chain.from_iterable(trace(part))
    ]


def _rings(region: Region) -> Iterator[Ring]:
    """Yield the lines around a region and around its holes."""
    padded = np.pad(region, 1)
    inside, pitch = padded[1:-1, 1:-1], region.shape[1] + 1
    # an edge starts at a corner (row, column) of its pixel and goes around the pixel clockwise
    sides = (
        (inside & ~padded[:-2, 1:-1], 0, 0),
        (inside & ~padded[1:-1, 2:], 0, 1),
        (inside & ~padded[2:, 1:-1], 1, 1),
        (inside & ~padded[1:-1, :-2], 1, 0),
    )
    pixels: dict[tuple[int, int], tuple[int, int]] = {}
    for direction, (edges, down, right) in enumerate(sides):
        for y, x in np.argwhere(edges).tolist():
            pixels[(y + down) * pitch + x + right, direction] = (y, x)
    steps = (1, pitch, -1, -pitch)
    while pixels:
        (corner, direction), pixel = next(iter(pixels.items()))
        first, points = (corner, direction), list[int]()
        ring = []
        while True:
            ring.append((corner, direction))
            corner += steps[direction]
            after = next(
                (direction + turn) % 4 for turn in TURNS if (corner, (direction + turn) % 4) in pixels
            )
            if after != direction:
                points.append(corner)
            direction = after
            if (corner, direction) == first:
                break
        for edge in ring:
            del pixels[edge]
        order = np.roll(points, 1)  # the first edge starts at the upper left corner
        corners = np.stack([order % pitch, order // pitch], axis=1)
        x, y = corners.T
        yield Ring(corners, pixel, int(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) // 2)


def _fill(ring: Ring) -> tuple[Region, int, int]:
    """Return the pixels inside a ring, cut out of the image, and their first row and column."""
    x, y = ring.points.T
    left, top = int(x.min()), int(y.min())
    crossings = np.zeros((int(y.max()) - top, int(x.max()) - left), np.uint8)
    for (x0, y0), (x1, y1) in zip(
        ring.points.tolist(), np.roll(ring.points, -1, axis=0).tolist(), strict=True
    ):
        if x0 == x1 and x0 - left < crossings.shape[1]:
            crossings[min(y0, y1) - top : max(y0, y1) - top, x0 - left] += 1
    return np.cumsum(crossings, axis=1) % 2 == 1, top, left


def _contains(region: Region, top: int, left: int, pixel: tuple[int, int]) -> bool:
    y, x = pixel[0] - top, pixel[1] - left
    return 0 <= y < region.shape[0] and 0 <= x < region.shape[1] and bool(region[y, x])
