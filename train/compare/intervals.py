"""Means over seeds and their confidence intervals, also where results are looked at several times.

Intervals are Student's t. A comparison that adds seeds until its rows are clear looks at its results several
times, and each look is a chance to be wrong. Its intervals are repeated confidence intervals (Jennison &
Turnbull, "Interim analyses: the repeated confidence interval approach", J. R. Stat. Soc. B 51, 1989): with k
planned looks each has the level 1 - 0.05 / k (Bonferroni), so that all of them hold at once in 95 % of
comparisons, whenever one stops. Pocock's boundaries (Biometrika 64, 1977) are somewhat narrower, but assume
equal groups and a known variance.
"""

from __future__ import annotations

import math
from bisect import bisect
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from zoo.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

ERROR = 0.05
"""Chance that any look at a row gives an interval without the true mean."""
MOST_SEEDS = 1000
"""Beyond which it is not said how many seeds a row needs."""


class Spread(Frozen):
    """A figure over seeds.

    Args:
        n: number of seeds.
        mean: mean over the seeds.
        sd: standard deviation of the sample, None for one seed.
        confidence: level of the interval.
    """

    n: int
    mean: float
    sd: float | None
    confidence: float = 1 - ERROR

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the interval of the mean, None for one seed."""
        if self.sd is None:
            return None
        reach = self._reach(self.n)
        return self.mean - reach, self.mean + reach

    @property
    def excludes_zero(self) -> bool:
        """Return whether the interval leaves zero out."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    @property
    def seeds_to_settle(self) -> int | None:
        """Return how many more seeds the interval needs to leave zero out, if mean and sd stay as they are.

        None for one seed, which has no sd, and for more than `MOST_SEEDS`.
        """
        if self.sd is None:
            return None
        more = range(MOST_SEEDS - self.n + 1)  # the interval narrows with each seed
        found = bisect(more, False, key=lambda count: self._reach(self.n + count) < abs(self.mean))
        return found if found < len(more) else None

    def _reach(self, count: int) -> float:
        """Return half the width of the interval with so many seeds of this sd."""
        assert self.sd is not None
        return quantile_of_t(self.confidence, count - 1) * self.sd / math.sqrt(count)


def spread(values: Sequence[float], confidence: float = 1 - ERROR) -> Spread | None:
    """Return mean and sample standard deviation, None of nothing."""
    if not values:
        return None
    sd = stdev(values) if len(values) > 1 else None
    return Spread(n=len(values), mean=fmean(values), sd=sd, confidence=confidence)


def quantile_of_t(confidence: float, degrees: int) -> float:
    """Return the t within which Student's distribution has this probability, on both sides of zero.

    Example:
        >>> round(quantile_of_t(0.95, 2), 3)
        4.303
    """
    low, high = 0.0, 1.0
    while probability_within(high, degrees) < confidence:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if probability_within(middle, degrees) < confidence else (low, middle)
    return high


def probability_within(t: float, degrees: int) -> float:
    """Return the probability of -t..t under Student's distribution (Abramowitz & Stegun, 26.7.3-4)."""
    angle = math.atan(t / math.sqrt(degrees))
    is_odd = degrees % 2
    term = math.cos(angle) if is_odd else 1.0
    total = 0.0
    for power in range(2 + is_odd, degrees + 1, 2):  # terms of cos(angle) ** 1, 3, ... or 0, 2, ...
        total += term
        term *= (power - 1) / power * math.cos(angle) ** 2
    if is_odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total


def planned_looks(first: int, last: int) -> tuple[int, ...]:
    """Return the numbers of seeds at which results are looked at: doubled each time, up to the last.

    Example:
        >>> planned_looks(3, 14)
        (3, 6, 12, 14)
    """
    looks = [first]
    while looks[-1] < last:
        looks.append(min(2 * looks[-1], last))
    return tuple(looks)
