"""Stratified choice of images to label, by class and without splitting videos.

Images are drawn in units: single images, or groups such as the frames of one video. All units are ordered so
that every prefix is a stratified sample, and samples of one seed are nested. The algorithm is iterative
stratification (Sechidis et al., ECML PKDD 2011) by the classes in an image: the next unit contains the class
that is furthest below its share, the rarest first among equals.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Counts = NDArray[np.int64]

SEQUENCE = r"(.*?)[_.-]?[A-Za-z]{0,6}\d+"
"""Expression whose group is a name without its frame number, e.g. `0016E5` of `0016E5_08159`."""

CANDIDATES = 64
"""Number of units that are compared for each position in the order."""


def make_groups(ids: Sequence[str], pattern: str | None) -> list[list[int]]:
    """Return the units, each as the indices of its images.

    Args:
        ids: ids of the images.
        pattern: regular expression that matches the whole name of an image, without its folder, and whose
            first group names the unit; None to make each image a unit.

    Raises:
        DatasetError: an invalid expression, one without a group, or a name that it does not match.
    """
    if pattern is None:
        return [[index] for index in range(len(ids))]
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DatasetError(f"--groups {pattern!r} is not a valid expression ({error}): correct it") from error
    if expression.groups < 1:
        raise DatasetError(
            f"--groups {pattern!r} has no group, expected one in parentheses that names the video: {SEQUENCE}"
        )
    units: dict[str, list[int]] = defaultdict(list)
    for index, id_ in enumerate(ids):
        match = expression.fullmatch(id_.rpartition("/")[2])
        if match is None:
            raise DatasetError(
                f"--groups {pattern!r} does not match {id_}, expected it to match every name: correct it"
            )
        folder = id_.partition("/")[2].rpartition("/")[0]
        units[match[1] or folder].append(index)  # of names such as v1/0001.png, the folder is the video
    return list(units.values())


def order_units(
    presence: NDArray[np.bool_], units: Sequence[Sequence[int]], ids: Sequence[str], seed: int
) -> list[int]:
    """Return the units in an order of which every prefix is a stratified sample.

    Args:
        presence: (N, K) bool, whether each image contains each class.
        units: indices of the images of each unit.
        ids: ids of the N images.
        seed: seed of the order among equally good units.
    """
    sizes = np.array([len(unit) for unit in units])
    counts: Counts = np.array([presence[list(unit)].sum(axis=0) for unit in units], np.int64)
    share = counts.sum(axis=0) / sizes.sum()  # of the images that contain each class
    drawn = sorted(range(len(units)), key=lambda unit: _rank(ids[units[unit][0]], seed))
    with_class = {k: [unit for unit in drawn if counts[unit, k]] for k in range(len(share)) if share[k] > 0}
    rarest_first = sorted(with_class, key=lambda k: share[k])
    weight = np.divide(1, share, out=np.zeros(len(share)), where=share > 0)
    open_ = np.ones(len(units), bool)
    taken, images, order = np.zeros(len(share)), 0, list[int]()
    while len(order) < len(units):
        for k in sorted(rarest_first, key=lambda k: taken[k] * weight[k]):
            near = list(islice((unit for unit in with_class[k] if open_[unit]), CANDIDATES))
            if near:
                break
        else:
            near = [unit for unit in drawn if open_[unit]]  # the rest contain no class at all
        ahead = taken + counts[near] - (images + sizes[near, None]) * share
        best = near[int(np.argmin((np.square(ahead) * weight).sum(axis=1)))]
        open_[best] = False
        order.append(best)
        taken += counts[best]
        images += int(sizes[best])
    return order


def take(order: Sequence[int], units: Sequence[Sequence[int]], count: int) -> list[int]:
    """Return the indices of the images of the first units, as close to `count` images as whole units allow.

    Args:
        order: order of the units (`order_units`).
        units: indices of the images of each unit.
        count: number of images; at least one unit is taken.
    """
    total = np.cumsum([len(units[unit]) for unit in order])
    end = int(np.argmin(np.abs(total - count))) + 1
    return sorted(index for unit in order[:end] for index in units[unit])


def _rank(id_: str, seed: int) -> bytes:
    """Return a sort key for random order that is the same on every machine and version."""
    return hashlib.sha256(f"{seed}:{id_}".encode()).digest()
