"""Choice of images by strategy, without near-duplicates and with groups kept apart.

The default strategy multiplies the unreliability of an image by its distance to the nearest image that is
labeled or chosen, and chooses one image after another: k-center greedy (Sener & Savarese, ICLR 2018,
`core-set`) weighted by unreliability.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from zoo.data.inspect.duplicates import Seen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zoo.label.scan import Looks, Scan

Strategy = Literal["reliability", "random", "entropy", "core-set"]
ROWS, CENTERS = 4096, 512
"""Number of images and of centers whose distances are computed at once."""


class Pick(NamedTuple):
    """A chosen image.

    Args:
        candidate: index among the candidates.
        distance: distance of its features to those of the nearest center before it was chosen; None without
            any center.
        nearest: index of this center: labeled images first, then held-out ones, which are never the nearest,
            then chosen ones in their order.
    """

    candidate: int
    distance: float | None
    nearest: int | None


class Choice(NamedTuple):
    """The chosen images.

    Args:
        picks: chosen images in their order.
        duplicates: indices of near-duplicates that were left out, with that of the labeled, held-out or
            chosen image.
        distances: (N,) distances to the nearest labeled image; infinite without labeled images.
    """

    picks: list[Pick]
    duplicates: list[tuple[int, int]]
    distances: NDArray[np.float32]


class Rules(NamedTuple):
    """Rules of a choice.

    Args:
        strategy: strategy.
        images: number of images.
        seed: seed of random choices.
        groups: group of each candidate, for instance its video; a group is used again once each one is.
    """

    strategy: Strategy
    images: int
    seed: int
    groups: Sequence[int]


def choose(
    pool: Scan, labeled: Scan, names: Sequence[str], rules: Rules, held_out: Looks | None = None
) -> Choice:
    """Return the images to label next.

    Args:
        pool: measurements of the candidates.
        labeled: measurements of the labeled images.
        names: name of each candidate.
        rules: rules of the choice.
        held_out: looks of images outside of training, whose near-duplicates are left out too.
    """
    nearness = _Distances(pool.features)
    readable = [index for index in range(len(labeled.digests)) if index not in labeled.failures]
    nearness.add(labeled.features[readable], np.array(readable, int))
    first = nearness.values.copy()
    seen, known = _seen(labeled, held_out)
    groups = np.asarray(rules.groups)
    taken = np.zeros(groups.max(initial=-1) + 1, int)
    is_open = np.ones(len(names), bool)
    is_open[list(pool.failures)] = False
    fixed = _fixed(pool, names, rules)
    picks: list[Pick] = []
    duplicates: list[tuple[int, int]] = []
    while len(picks) < rules.images and is_open.any():
        value = fixed if rules.strategy in ("random", "entropy") else fixed * nearness.finite()
        is_next = is_open & (taken[groups] == taken[groups[is_open]].min())
        best = int(np.argmax(np.where(is_next, value, -np.inf)))
        is_open[best] = False
        other = seen.find(pool.thumbs[best], pool.digests[best])
        if other is not None:
            duplicates.append((best, other))
            continue
        center = known + len(picks)
        picks.append(Pick(best, *nearness.at(best)))
        taken[groups[best]] += 1
        seen.add(pool.thumbs[best], pool.digests[best], center)
        nearness.add(pool.features[best : best + 1], np.array([center]))
    return Choice(picks, duplicates, first)


def _seen(*groups: Scan | Looks | None) -> tuple[Seen, int]:
    """Return the images of some groups that could be read, numbered one after another, and their number."""
    seen, start = Seen(), 0
    for group in groups:
        if group is None:
            continue
        for index, (thumb, digest) in enumerate(zip(group.thumbs, group.digests, strict=True), start):
            if index - start not in group.failures:
                seen.add(thumb, digest, index)
        start += len(group.digests)
    return seen, start


def _fixed(pool: Scan, names: Sequence[str], rules: Rules) -> NDArray[np.float64]:
    """Return the part of the value of each candidate that does not depend on what was chosen, (N,)."""
    if rules.strategy == "random":  # the same on every machine and version
        hashes = [hashlib.sha256(f"{rules.seed}:{name}".encode()).digest()[:6] for name in names]
        return np.array([int.from_bytes(one) for one in hashes], float)
    if rules.strategy == "core-set":
        return np.ones(len(names))
    return (pool.entropy if rules.strategy == "entropy" else pool.unreliability).astype(float)


class _Distances:
    """Distances of candidates to their nearest centers.

    Args:
        features: (N, D) features of the candidates.
    """

    def __init__(self, features: NDArray[np.float32]) -> None:
        self.features = features
        self.values = np.full(len(features), np.inf, np.float32)
        self.nearest = np.full(len(features), -1)

    def add(self, centers: NDArray[np.float32], numbers: NDArray[np.int_]) -> None:
        """Add centers.

        Args:
            centers: (M, D) features.
            numbers: (M,) number of each center.
        """
        for start in range(0, len(centers), CENTERS):
            some = centers[start : start + CENTERS]
            for begin in range(0, len(self.features), ROWS):
                rows = slice(begin, begin + ROWS)
                self._update(rows, some, numbers[start : start + CENTERS])

    def _update(self, rows: slice, centers: NDArray[np.float32], numbers: NDArray[np.int_]) -> None:
        features = self.features[rows]
        squares = (features**2).sum(axis=1)[:, None] + (centers**2).sum(axis=1) - 2 * features @ centers.T
        best = squares.argmin(axis=1)
        found = np.sqrt(np.maximum(squares[np.arange(len(best)), best], 0))
        is_nearer = found < self.values[rows]
        self.nearest[rows] = np.where(is_nearer, numbers[best], self.nearest[rows])
        self.values[rows] = np.where(is_nearer, found, self.values[rows])

    def finite(self) -> NDArray[np.float32]:
        """Return the distances, (N,), one without centers."""
        return np.where(np.isfinite(self.values), self.values, np.float32(1))

    def at(self, index: int) -> tuple[float | None, int | None]:
        """Return the distance of a candidate and the number of its nearest center."""
        if self.nearest[index] < 0:
            return None, None
        return float(self.values[index]), int(self.nearest[index])
