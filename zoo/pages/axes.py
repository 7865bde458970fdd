"""From values to places on the axis of a plot, with round ticks."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Axis(NamedTuple):
    """From values to shares of an axis."""

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Return the place of a value between 0 and 1."""
        low, high, place = self.low, self.high, value
        if self.logarithmic:
            low, high, place = math.log(low), math.log(high), math.log(value)
        return (place - low) / (high - low)


def linear_axis(values: Sequence[float], least: float = 0.0) -> Axis:
    """Return an axis around the values that is at least `least` long."""
    middle = (min(values) + max(values)) / 2
    span = max(max(values) - min(values), least) * 1.25 or 1.0
    step = _round_step(span / 4)
    low = math.floor((middle - span / 2) / step) * step
    high = math.ceil((middle + span / 2) / step) * step
    count = round((high - low) / step)
    return Axis(low, high, tuple(low + index * step for index in range(count + 1)))


def axis_from_zero(values: Sequence[float]) -> Axis:
    """Return an axis from zero to above the values."""
    step = _round_step(max(values) / 4)
    count = math.ceil(max(values) / step)
    return Axis(0, count * step, tuple(index * step for index in range(count + 1)))


def logarithmic_axis(values: Sequence[float]) -> Axis:
    """Return an axis around positive values, with ticks at 1, 2 and 5 of each power of ten."""
    low, high = min(values) / 1.3, max(values) * 1.3
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power, digit in product(powers, (1, 2, 5))]
    return Axis(low, high, tuple(tick for tick in ticks if low <= tick <= high), logarithmic=True)


def _round_step(step: float) -> float:
    """Return the next of 1, 2, 5 and their powers of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= step * 0.999)
