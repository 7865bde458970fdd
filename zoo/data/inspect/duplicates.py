"""Images that are there twice: by the bytes of the file, and by a perceptual hash.

A difference hash (dHash) finds candidates; two of them are near-duplicates if their thumbnails, brought to
the same mean and contrast, differ nowhere by more than `MOST_DIFFERENCE`. On CamVid, neighbors in a video
differ by 18.9 and more, copies that were encoded again (JPEG quality 20) or scaled (a third, half, double) by
3.6 and less.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from zoo.data.inspect.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from zoo.data.inspect.facts import ImageFacts

MOST_BITS = 24
"""Of the 240 of two hashes may differ."""
MOST_DIFFERENCE = 7.0
"""Of two thumbnails whose grey values have the standard deviation `CONTRAST`."""
CONTRAST = 50.0
LEAST_CONTRAST = 2.0
"""Flatter thumbnails are not compared: noise would decide."""
CHUNK = 256
HELD_OUT = "val"


def find_duplicates(images: Sequence[tuple[str, str, ImageFacts]]) -> Iterator[Finding]:
    """Yield the duplicates among images.

    Args:
        images: of each its split, its file and its facts.
    """
    exact: dict[bytes, list[int]] = defaultdict(list)
    for index, (_, _, facts) in enumerate(images):
        if facts.sha256:
            exact[facts.sha256].append(index)
    groups = [group for group in exact.values() if len(group) > 1]
    same = {index: number for number, group in enumerate(groups) for index in group}
    yield from _findings(images, groups, ("duplicates", "leakage"))
    pairs = [pair for pair in _near(images) if same.get(pair[0], -1) != same.get(pair[1], -2)]
    yield from _findings(images, _joined(pairs), ("near-duplicates", "near-leakage"))


def _findings(
    images: Sequence[tuple[str, str, ImageFacts]], groups: list[list[int]], kinds: tuple[str, str]
) -> Iterator[Finding]:
    """Yield a finding for each group, of the second kind if it lies on both sides of the held-out split."""
    for group in groups:
        splits = {images[index][0] for index in group}
        leaks = HELD_OUT in splits and len(splits) > 1
        yield Finding(kinds[leaks], tuple(images[index][1] for index in group))


def _near(images: Sequence[tuple[str, str, ImageFacts]]) -> Iterator[tuple[int, int]]:
    """Yield the pairs that nearly equal each other."""
    found = [
        (index, facts.thumb.astype(np.float32))
        for index, (_, _, facts) in enumerate(images)
        if facts.thumb is not None and facts.thumb.std() >= LEAST_CONTRAST
    ]
    if not found:
        return
    indices, thumbs = [index for index, _ in found], np.stack([thumb for _, thumb in found])
    mean, deviation = thumbs.mean((1, 2), keepdims=True), thumbs.std((1, 2), keepdims=True)
    normal = (thumbs - mean) * (CONTRAST / deviation)
    hashes = _hashes(thumbs)
    for begin in range(0, len(hashes), CHUNK):
        rows = hashes[begin : begin + CHUNK, None]  # (n, 1, 4)
        bits = np.bitwise_count(rows ^ hashes[None, begin:]).sum(axis=-1, dtype=np.uint16)  # (n, m)
        for row, column in np.argwhere(bits <= MOST_BITS).tolist():
            first, second = begin + row, begin + column
            if first < second and np.abs(normal[first] - normal[second]).max() <= MOST_DIFFERENCE:
                yield indices[first], indices[second]


def _hashes(thumbs: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return whether each cell of a thumbnail is brighter than the one to its left, (N, 4) uint64 bits."""
    cells = thumbs.reshape(len(thumbs), 16, 2, 16, 2).mean(axis=(2, 4))
    bits = np.zeros((len(thumbs), 16, 16), np.bool_)
    bits[..., 1:] = cells[..., 1:] > cells[..., :-1] + 1  # grey levels: less is noise
    return np.packbits(bits.reshape(len(thumbs), -1), axis=1).view(np.uint64)


def _joined(pairs: list[tuple[int, int]]) -> list[list[int]]:
    """Return the groups that pairs make."""
    group_of: dict[int, list[int]] = {}
    for first, second in pairs:
        merged = sorted({*group_of.get(first, [first]), *group_of.get(second, [second])})
        group_of |= dict.fromkeys(merged, merged)
    return [list(group) for group in dict.fromkeys(map(tuple, group_of.values()))]
