"""Throughput of data loading, and the processor time of its parts."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from zoo.machine import cores
from zoo.train.data.loaders import BatchStream, batches
from zoo.train.profile.memory_fit import images_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sized

    from zoo.data.partition import Partition
    from zoo.data.source import Source
    from zoo.train.data.streams import TrainingData
    from zoo.train.method import Batch, Phase
    from zoo.train.recipe.schema import Recipe


log = logging.getLogger(__name__)


ENDLESS = 10**9
CLOCK = Path("/proc/stat")
IDLE_COLUMNS = (3, 4)
"""Columns of the first line of `CLOCK`: idle, and idle while waiting for disk I/O (proc_stat(5))."""
READ, WEAK, STRONG, JOIN, SHARE = "read and decode", "weak view", "strong view", "join", "share"
"""Parts of the work on a batch; `share` copies it to memory shared with the training process."""

SECONDS = 2.0

BATCHES = 2


class Rate(NamedTuple):
    """Measured throughput of a loader."""

    images: int
    seconds: float
    idle: float | None
    """Idle share of the machine's processor time; None where the system does not report it."""


def widest_phase(recipe: Recipe) -> Phase:
    """Return the phase of a run whose batches have the most images and views, made endless."""
    with torch.device("meta"):  # networks without memory: only the phases are needed
        method = recipe.new_method()
    phases = method.phases(recipe.steps)
    widest = max(phases, key=lambda phase: (phase.unlabeled, phase.strong, phase.labeled))
    return widest._replace(steps=ENDLESS)


def endless_stream(recipe: Recipe, source: Source, partition: Partition, phase: Phase) -> BatchStream:
    """Return an endless stream of the batches of a phase."""
    return BatchStream(recipe, source, partition, (phase._replace(steps=ENDLESS),))


def rate_of(stream: BatchStream, workers: int, seconds: float) -> Rate:
    """Return the throughput of the loader for a consumer that does nothing else.

    Args:
        stream: endless stream of batches.
        workers: number of data workers; 0 to load in this process.
        seconds: duration of the measurement, extended if there are too few batches.
    """
    pin_memory = torch.cuda.is_available()
    images = count = 0
    with closing(batches(stream, 0, ENDLESS, workers=workers, pin_memory=pin_memory)) as data:
        for _ in range(2 * workers + 1):  # prepared while workers started
            next(data)
        began, ticks = time.perf_counter(), _ticks()
        while count < 2 * max(1, workers) or time.perf_counter() - began < seconds:
            images += next(data).images
            count += 1
        passed = time.perf_counter() - began
    return Rate(images, passed, _idle_share(ticks, _ticks()))


def part_seconds(stream: BatchStream, count: int) -> dict[str, float]:
    """Return the processor seconds per image of each part of the work, in this process.

    Args:
        stream: stream of batches, which is changed and must not be used afterward.
        count: number of batches to measure, after two warm-up batches.
    """
    watch = _Watch()
    stream.labeled = _Watched(stream.labeled, watch)  # type: ignore[assignment]
    stream.unlabeled = _Watched(stream.unlabeled, watch)  # type: ignore[assignment]
    stream.weak = watch.timed(WEAK, stream.weak)  # type: ignore[assignment]
    stream.strong = watch.timed(STRONG, stream.strong)
    make, share = watch.timed(JOIN, stream.__getitem__), watch.timed(SHARE, _shared)
    for number in range(2):
        share(make(number))
    watch.seconds.clear()
    images = 0
    for number in range(2, 2 + count):
        batch = make(number)
        share(batch)
        images += batch.images
    inside = sum(watch.seconds[part] for part in (READ, WEAK, STRONG))
    watch.seconds[JOIN] -= inside
    return {part: watch.seconds[part] / images for part in (READ, WEAK, STRONG, JOIN, SHARE)}


class _Watch:
    """Accumulates the processor time of functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            began = time.process_time()
            result = function(*args)
            self.seconds[part] += time.process_time() - began
            return result

        return timed


class _Watched:
    """Data set with timed reading."""

    def __init__(self, images: Any, watch: _Watch) -> None:
        self.images: Sized = images
        self.read = watch.timed(READ, images.__getitem__)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.read(index)


def _shared(batch: Batch) -> None:
    """Copy a batch to shared memory, as data workers do."""
    for value in batch:
        if isinstance(value, Tensor):
            value.share_memory_()


def _ticks() -> list[int] | None:
    """Return the ticks of all processors since boot, by usage; None where they are not reported."""
    if not CLOCK.is_file():
        return None
    return [int(text) for text in CLOCK.read_text(encoding="ascii").splitlines()[0].split()[1:]]


def _idle_share(before: list[int] | None, after: list[int] | None) -> float | None:
    if before is None or after is None:
        return None
    passed = [late - early for early, late in zip(before, after, strict=True)]
    return sum(passed[column] for column in IDLE_COLUMNS) / max(1, sum(passed))


HEADROOM = 1.1
"""Ratio by which a loader must be faster than training, since both vary."""


def plan_loading(training: TrainingData, step_s: dict[str, float]) -> dict[str, Any]:
    """Return the throughput of the loader, and that needed in the phase with the most images.

    Args:
        training: data of the run; its cache is not used, as it is empty at the start of a run.
        step_s: seconds per step of each phase, without waiting for its batch.

    Returns:
        `phase`, `workers` of the recipe, their `images_per_s`, `need` in images/s, `feeds`, `cpu_ms` per
        image, `workers_needed`, and `cores` of this machine.
    """
    log.info("%.0f s of the loader alone", SECONDS)
    recipe = training.recipe
    phase = widest_phase(recipe)
    data = recipe.data.model_copy(update={"cache": "none"})
    plain = recipe.model_copy(update={"data": data})
    stream = endless_stream(plain, training.source, training.partition, phase)
    rate = rate_of(stream, data.workers, SECONDS)
    cpu_s = sum(part_seconds(stream, BATCHES).values())
    given = rate.images / rate.seconds
    need = recipe.accumulate * images_of(phase, recipe) / step_s[phase.name]
    return {
        "phase": phase.name,
        "workers": data.workers,
        "images_per_s": given,
        "need": need,
        "feeds": given >= HEADROOM * need,
        "cpu_ms": 1000 * cpu_s,
        "workers_needed": math.ceil(HEADROOM * need * cpu_s),
        "cores": cores(),
    }
