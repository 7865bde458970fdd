"""Detection of duplicate images, by the bytes of the file and by a perceptual hash.

A difference hash (dHash) finds candidates; two of them are near-duplicates if their thumbnails, normalized to
the same mean and contrast, differ by at most `MOST_DIFFERENCE` everywhere. On CamVid, consecutive frames of a
video differ by at least 18.9, and copies that were re-encoded (JPEG quality 20) or scaled (to a third, half
or double) by at most 3.6.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from zoo.data.inspect.facts import THUMB_PX
from zoo.data.inspect.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from zoo.data.inspect.facts import ImageFacts

MOST_BITS = 24
"""Number of bits, of 240, in which the hashes of candidates may differ."""
MOST_DIFFERENCE = 7.0
"""Largest difference of near-duplicates, in gray values at a standard deviation of `CONTRAST`."""
CONTRAST = 50.0
LEAST_CONTRAST = 2.0
"""Thumbnails of lower contrast are not compared, because noise would dominate."""
CELLS, BATCH = 2_500_000, 8192
"""Number of pairs whose hashes, and whose thumbnails, are compared at once."""
HELD_OUT = "val"


def find_duplicates(images: Sequence[tuple[str, str, ImageFacts]]) -> Iterator[Finding]:
    """Yield the duplicates among images.

    Args:
        images: split, file name and facts of each image.
    """
    exact: dict[bytes, list[int]] = defaultdict(list)
    for index, (_, _, facts) in enumerate(images):
        if facts.sha256:
            exact[facts.sha256].append(index)
    yield from _findings(images, list(exact.values()), ("duplicates", "leakage"))
    # one of each group of identical files
    once = [group[0] for group in exact.values() if images[group[0]][2].thumb is not None]
    near = [[once[index] for index in group] for group in _near([images[index][2].thumb for index in once])]
    yield from _findings(images, near, ("near-duplicates", "near-leakage"))


def _findings(
    images: Sequence[tuple[str, str, ImageFacts]], groups: list[list[int]], kinds: tuple[str, str]
) -> Iterator[Finding]:
    """Yield a finding for each group of at least two images, of the second kind if only some are held out."""
    for group in groups:
        if len(group) < 2:
            continue
        splits = {images[index][0] for index in group}
        leaks = HELD_OUT in splits and len(splits) > 1
        yield Finding(kinds[leaks], tuple(images[index][1] for index in group))


def _near(thumbs: Sequence[NDArray[np.uint8] | None]) -> list[list[int]]:
    """Return groups of thumbnails that are nearly equal, directly or transitively."""
    if not thumbs:
        return []
    gray = np.asarray(thumbs, np.float32).reshape(-1, THUMB_PX, THUMB_PX)
    views, is_flat = _views(gray)
    hashes = _hashes(gray)
    group = np.arange(len(gray))
    step = max(1, CELLS // len(hashes))
    for begin in range(0, len(hashes), step):
        rows = hashes[begin : begin + step, None]  # (n, 1, 4)
        bits = np.bitwise_count(rows ^ hashes[None, begin:]).sum(axis=-1, dtype=np.uint16)  # (n, m)
        pairs = np.argwhere(bits <= MOST_BITS) + begin
        pairs = pairs[(pairs[:, 0] < pairs[:, 1]) & ~is_flat[pairs].any(axis=1)]
        for start in range(0, len(pairs), BATCH):
            first, second = pairs[start : start + BATCH].T
            apart = group[first] != group[second]  # the others are in one group already
            first, second = first[apart], second[apart]
            for view in views:
                is_near = np.abs(view[first] - view[second]).max(axis=(1, 2), initial=0) <= MOST_DIFFERENCE
                first, second = first[is_near], second[is_near]
            for one, other in zip(first, second, strict=True):
                group[group == group[other]] = group[one]
    members: dict[int, list[int]] = defaultdict(list)
    for index, number in enumerate(group.tolist()):
        members[number].append(index)
    return list(members.values())


class Seen:
    """Images among which duplicates of others are found."""

    def __init__(self) -> None:
        self._of_digest: dict[bytes, int] = {}
        self._thumbs: list[NDArray[np.uint8]] = []
        self._hashes = np.zeros((0, 4), np.uint64)
        self._numbers: list[int] = []

    def add(self, thumb: NDArray[np.uint8], digest: bytes, number: int) -> None:
        """Add an image.

        Args:
            thumb: (32, 32) uint8 gray thumbnail.
            digest: digest of the image, by which an identical one is found.
            number: number by which `find` names it.
        """
        self._of_digest.setdefault(digest, number)
        self._thumbs.append(thumb)
        self._numbers.append(number)

    def find(self, thumb: NDArray[np.uint8], digest: bytes) -> int | None:
        """Return the number of an image that is identical or a near-duplicate; None if none is."""
        if digest in self._of_digest or not self._thumbs:
            return self._of_digest.get(digest)
        if new := self._thumbs[len(self._hashes) :]:
            self._hashes = np.concatenate([self._hashes, _hashes(np.asarray(new, np.float32))])
        bits = np.bitwise_count(self._hashes ^ _hashes(np.asarray([thumb], np.float32))).sum(axis=-1)
        candidates = np.flatnonzero(bits <= MOST_BITS).tolist()
        gray = np.asarray([thumb, *(self._thumbs[index] for index in candidates)], np.float32)
        (_, normal), is_flat = _views(gray)
        differences = np.abs(normal[1:] - normal[0]).max(axis=(1, 2), initial=0)
        near = np.flatnonzero((differences <= MOST_DIFFERENCE) & ~is_flat[1:] & ~is_flat[0])
        return self._numbers[candidates[near[0]]] if near.size else None


def _views(gray: NDArray[np.float32]) -> tuple[tuple[NDArray[np.float32], ...], NDArray[np.bool_]]:
    """Return block means and pixels of normalized thumbnails, and which of them are too flat to compare.

    If block means differ, so do pixels.
    """
    mean, deviation = gray.mean((1, 2), keepdims=True), gray.std((1, 2), keepdims=True)
    normal = (gray - mean) * (CONTRAST / np.maximum(deviation, LEAST_CONTRAST))
    return (normal.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)), normal), deviation[:, 0, 0] < LEAST_CONTRAST


def _hashes(thumbs: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return difference hashes, (N, 4) uint64: a bit is set if a cell is brighter than its left neighbor."""
    cells = thumbs.reshape(len(thumbs), 16, 2, 16, 2).mean(axis=(2, 4))
    bits = np.zeros((len(thumbs), 16, 16), np.bool_)
    bits[..., 1:] = cells[..., 1:] > cells[..., :-1] + 1  # differences below one gray level are noise
    return np.packbits(bits.reshape(len(thumbs), -1), axis=1).view(np.uint64)
