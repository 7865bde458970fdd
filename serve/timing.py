"""Time several predictors, in turns, each on a batch of its own or all on the same one.

Each round gives every predictor in turn a tenth of the time and of the runs asked for, so that a machine that
slows down for a while slows all of them. The first run after a change of predictor is not counted; every
other run is, no outlier is removed.
"""

from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from zoo.predictors.base import Predictor

    Images = NDArray[np.uint8]

Rounds = list[list[float]]
"""Seconds of each run, in a list for each round."""

ROUNDS = 10
WARMUP_SECONDS = 0.2
WARMUP_RUNS = 10
RUNS_FOR_P99 = 1000


class Budget(NamedTuple):
    """How long each predictor is measured: until both are reached."""

    seconds: float
    runs: int


@runtime_checkable
class Staged(Protocol):
    """A predictor whose `run` is these three, one after the other."""

    device: torch.device

    def upload(self, images: Images) -> Any:
        """Return a batch of images on the device."""

    def compute(self, batch: Any) -> Any:
        """Return the masks of a batch, on the device."""

    def download(self, masks: Any) -> NDArray[np.uint8]:
        """Return masks in host memory."""


def warm_up(predictor: Predictor, images: Images) -> float:
    """Run for at least 200 ms and 10 runs and return the seconds of the first run, which may compile."""
    first = _timed_run(predictor, images)
    _slice(predictor, images, Budget(WARMUP_SECONDS, WARMUP_RUNS))
    return first


def time_in_turns(
    turns: Sequence[tuple[Predictor, Images]], budget: Budget, on_round: Callable[[int], None]
) -> list[Rounds]:
    """Return the seconds of every counted run of each predictor, by round.

    Args:
        turns: each predictor, warmed up, and its (B, H, W, 3) uint8 images in host memory.
        budget: for each predictor, over all rounds.
        on_round: called with the number of each round, from 1, before it starts.
    """
    share = Budget(budget.seconds / ROUNDS, math.ceil(budget.runs / ROUNDS))
    results: list[Rounds] = [[] for _ in turns]
    for number in range(1, ROUNDS + 1):
        on_round(number)
        for (predictor, images), rounds in zip(turns, results, strict=True):
            _timed_run(predictor, images)
            rounds.append(_slice(predictor, images, share))
    return results


def time_stages(predictor: Staged, images: Images, runs: int) -> dict[str, float]:
    """Return the median milliseconds that a batch spends on the way to the GPU, in it and on the way back.

    Between CUDA events, so that `compute` includes the GPU's waits for the host; host memory is pageable.

    Args:
        predictor: warmed up, on the current CUDA device.
        images: (B, H, W, 3) uint8, in host memory.
        runs: how many to take the median of.
    """
    splits = []
    for _ in range(runs):
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        marks[0].record()
        batch = predictor.upload(images)
        marks[1].record()
        masks = predictor.compute(batch)
        marks[2].record()
        predictor.download(masks)
        marks[3].record()
        marks[3].synchronize()
        splits.append([start.elapsed_time(end) for start, end in pairwise(marks)])
    return dict(zip(("h2d", "compute", "d2h"), np.median(splits, axis=0).tolist(), strict=True))


def _slice(predictor: Predictor, images: Images, budget: Budget) -> list[float]:
    latencies: list[float] = []
    end = time.perf_counter() + budget.seconds
    while len(latencies) < budget.runs or time.perf_counter() < end:
        latencies.append(_timed_run(predictor, images))
    return latencies


def _timed_run(predictor: Predictor, images: Images) -> float:
    start = time.perf_counter()
    predictor.run(images)
    return time.perf_counter() - start
