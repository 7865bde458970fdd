"""Timing of several predictors in turns.

Each round gives every predictor a tenth of the requested time and runs, so that a temporary slowdown of the
machine affects all of them. The first run after a change of predictor is not counted; no outlier is removed.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

Rounds = list[list[float]]
"""Seconds or milliseconds of each run, one list per round."""

ROUNDS = 10
WARMUP_SECONDS = 0.2
WARMUP_RUNS = 10
RUNS_FOR_P99 = 1000


class Budget(NamedTuple):
    """Minimum time and runs of each predictor; both must be reached."""

    seconds: float
    runs: int


def warm_up(run: Callable[[], object]) -> float:
    """Run at least 10 times and 200 ms, and return the seconds of the first run, which may compile."""
    first = _timed(run)
    repeat(run, Budget(WARMUP_SECONDS, WARMUP_RUNS))
    return first


def repeat(run: Callable[[], object], budget: Budget) -> list[float]:
    """Return the seconds of each run within a budget."""
    seconds: list[float] = []
    end = time.perf_counter() + budget.seconds
    while len(seconds) < budget.runs or time.perf_counter() < end:
        seconds.append(_timed(run))
    return seconds


def settled(run: Callable[[], object], budget: Budget) -> list[float]:
    """Return the seconds of each run except the first, which another predictor's memory may slow down."""
    run()
    return repeat(run, budget)


def in_turns(
    turns: Sequence[Callable[[Budget], T]], budget: Budget, on_round: Callable[[int], None]
) -> list[list[T]]:
    """Return the result of each predictor's turns, by round.

    Args:
        turns: functions that each measure a warmed-up predictor within its share of the budget.
        budget: budget of each predictor, over all rounds.
        on_round: called with the number of each round, from 1, before it starts.
    """
    share = Budget(budget.seconds / ROUNDS, math.ceil(budget.runs / ROUNDS))
    results: list[list[T]] = [[] for _ in turns]
    for number in range(1, ROUNDS + 1):
        on_round(number)
        for turn, rounds in zip(turns, results, strict=True):
            rounds.append(turn(share))
    return results


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
