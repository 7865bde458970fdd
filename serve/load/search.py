"""The highest rate of arrivals that keeps a bound, found by bisection."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from zoo.serve.load.measurement import Goodput

if TYPE_CHECKING:
    from collections.abc import Callable

PRECISION = 0.05
"""How far above the rate that is found one that fails lies, at most, as a share of it."""
GROWTH = 1.5
LEAST = 1 / 8
"""Share of the first guess below which nothing is tried."""
MOST_TRIES = 16


def highest_rate(holds: Callable[[float], bool], guess: float) -> Goodput:
    """Return the highest rate that holds, within `PRECISION`.

    Args:
        holds: whether the server keeps the bound at a rate, which is measured.
        guess: a rate to begin with.
    """
    low, high, rate, tried = 0.0, math.inf, guess, 0
    while tried < MOST_TRIES and rate >= LEAST * guess and high > (1 + PRECISION) * low:
        tried += 1
        if holds(rate):
            low = rate
        else:
            high = rate
        rate = GROWTH * low if math.isinf(high) else (low + high) / 2
    return Goodput(rate=low or None, failing_rate=None if math.isinf(high) else high, tried=tried)
