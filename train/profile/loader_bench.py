"""Benchmark of data loaders, by number of workers and cache, with a recommendation.

All variants take turns, so that other load on the machine affects all of them. The caches contain all images,
as they do from the second epoch of a run on.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.data.cache.cached import GB
from zoo.data.files import FileSource
from zoo.data.partition import AUTO
from zoo.machine import cores
from zoo.memory import MIB, free_ram_mib
from zoo.train.data.cache import DEFAULT_SHARE, cache_folder
from zoo.train.data.streams import TrainingData
from zoo.train.profile.loading import HEADROOM, endless_stream, part_seconds, rate_of, widest_phase
from zoo.train.profile.memory_fit import images_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import torch

    from zoo.data.partition import Partition
    from zoo.data.source import Source
    from zoo.train.data.loaders import BatchStream
    from zoo.train.method import Phase
    from zoo.train.profile.loading import Rate
    from zoo.train.recipe.schema import Recipe


ROUNDS = 3
MOST_IMAGES = 96
"""Largest number of labeled, and of unlabeled images used; the caches hold all of them."""
TIMED_BATCHES = 6
CACHES = ("none", "memory", "disk")
ENOUGH = 0.9
"""Share of the best rate that is sufficient for a simpler setting."""


class Variant(NamedTuple):
    """Settings of a loader."""

    workers: int
    cache: str


def bench(
    recipe: Recipe,
    source: Source,
    workers: Sequence[int],
    *,
    seconds: float,
    step_ms: float | None = None,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Return the throughput of a recipe's data loader in all variants, ready for JSON.

    Args:
        recipe: recipe of a method.
        source: source of the images; the first of each kind are used.
        workers: numbers of data workers to compare.
        seconds: duration of the measurement of each variant, over all rounds.
        step_ms: duration of a training step, if it is known.
        on_round: called with the number of measurements done and their total.

    Returns:
        `variants`, each with images/s of each round, their median, its ratio to the first variant, and the
        idle share of the processors; `parts`: processor time in ms per image, by cache and part; `advice`.

    Raises:
        ZooError: the method needs images that the partition lacks, or an image cannot be read.
    """
    phase = widest_phase(recipe)
    if recipe.data.partition is None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"partition": AUTO})})
    data = TrainingData.draw(recipe, source).for_phases((phase,))
    recipe, partition = data.recipe, data.partition
    sample = _sample(partition)
    caches = _caches(source)
    with ExitStack() as stack:
        folder = _temporary_folder(recipe, stack) if "disk" in caches else None
        streams = {cache: _stream(recipe, cache, folder, source, sample, phase) for cache in caches}
        kept_bytes = [_warm(stream) for stream in streams.values()]
        variants = [Variant(*each) for each in itertools.product(workers, caches)]
        rates: dict[Variant, list[Rate]] = {variant: [] for variant in variants}
        turns = [variant for _ in range(ROUNDS) for variant in variants]
        for done, variant in enumerate(turns, start=1):
            rates[variant].append(rate_of(streams[variant.cache], variant.workers, seconds / ROUNDS))
            if on_round is not None:
                on_round(done, len(turns))
        parts = {cache: _parts_ms(stream) for cache, stream in streams.items()}
    rows = _rows(rates)
    decoded_gb = _decoded_gb(kept_bytes[0], sample, partition)
    return {
        "data": source.spec,
        "recipe": recipe.recipe,
        "imgsz": list(recipe.data.imgsz),
        "batch": [recipe.data.batch_l, recipe.data.batch_u],
        "phase": phase.name,
        "images_asked_for": len(sample.labeled) + len(sample.unlabeled),
        "decoded_gb": decoded_gb,
        "cores": cores(),
        "seconds": seconds,
        "rounds": ROUNDS,
        "step_ms": step_ms,
        "variants": rows,
        "parts": parts,
        "advice": advise(rows, _need(recipe, phase, step_ms), memory_holds_all=_fits_memory(decoded_gb)),
    }


def advise(rows: Sequence[dict[str, Any]], need: float | None, *, memory_holds_all: bool) -> dict[str, Any]:
    """Return the simplest settings that are fast enough, or else the fastest.

    No cache is simpler than memory, memory is simpler than disk, and fewer workers are simpler than more.

    Args:
        rows: `workers`, `cache` and `images_per_s` of each variant.
        need: images/s that training consumes; None if unknown, in which case `ENOUGH` of the best rate
            suffices.
        memory_holds_all: whether half of the free memory holds all images; if not, the memory cache is left
            out, since its rate would not last.

    Returns:
        `workers`, `cache`, `images_per_s`, `need`, and `feeds`: whether they are fast enough, None if
        unknown.
    """
    usable = [row for row in rows if row["cache"] != "memory" or memory_holds_all]
    best = max(usable, key=lambda row: row["images_per_s"])
    enough = ENOUGH * best["images_per_s"] if need is None else HEADROOM * need
    fast = [row for row in usable if row["images_per_s"] >= enough]
    chosen = min(fast, key=lambda row: (CACHES.index(row["cache"]), row["workers"]), default=best)
    return {
        **{key: chosen[key] for key in ("workers", "cache", "images_per_s")},
        "need": need,
        "feeds": None if need is None else bool(fast),
        "memory_holds_all": memory_holds_all,
    }


def _need(recipe: Recipe, phase: Phase, step_ms: float | None) -> float | None:
    """Return the images/s that training consumes; None if the duration of a step is unknown."""
    if step_ms is None:
        return None
    return 1000 * recipe.accumulate * images_of(phase, recipe) / step_ms


def _sample(partition: Partition) -> Partition:
    return replace(
        partition, labeled=partition.labeled[:MOST_IMAGES], unlabeled=partition.unlabeled[:MOST_IMAGES]
    )


def _caches(source: Source) -> list[str]:
    """Return the caches that this system and the source support."""
    possible = {"memory": sys.platform == "linux", "disk": isinstance(source, FileSource)}
    return [cache for cache in CACHES if possible.get(cache, True)]


def _temporary_folder(recipe: Recipe, stack: ExitStack) -> Path:
    """Return a temporary folder on the disk of the cache."""
    base = cache_folder(recipe.data)
    base.mkdir(parents=True, exist_ok=True)
    return Path(stack.enter_context(tempfile.TemporaryDirectory(dir=base, prefix="bench-")))


def _stream(
    recipe: Recipe, cache: str, folder: Path | None, source: Source, partition: Partition, phase: Phase
) -> BatchStream:
    data = recipe.data.model_copy(
        update={"cache": cache, "cache_dir": None if folder is None else str(folder)}
    )
    return endless_stream(recipe.model_copy(update={"data": data}), source, partition, phase)


def _warm(stream: BatchStream) -> tuple[int, int]:
    """Read every image once and return the bytes of labeled images with masks, and of unlabeled ones."""
    labeled = sum(_bytes(stream.labeled[index][:2]) for index in range(len(stream.labeled)))
    unlabeled = sum(_bytes((stream.unlabeled[index],)) for index in range(len(stream.unlabeled)))
    return labeled, unlabeled


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _decoded_gb(kept: tuple[int, int], sample: Partition, whole: Partition) -> float:
    """Return the estimated size of all decoded images of a partition, from those that were read."""
    counts = ((kept[0], sample.labeled, whole.labeled), (kept[1], sample.unlabeled, whole.unlabeled))
    return sum(size * len(every) / max(1, len(some)) for size, some, every in counts) / GB


def _fits_memory(gb: float) -> bool:
    free = free_ram_mib()
    return free is None or gb * GB <= DEFAULT_SHARE * free * MIB


def _parts_ms(stream: BatchStream) -> dict[str, float]:
    return {part: 1000 * seconds for part, seconds in part_seconds(stream, TIMED_BATCHES).items()}


def _rows(rates: dict[Variant, list[Rate]]) -> list[dict[str, Any]]:
    """Return a row for each variant; ratios to the first variant are medians over rounds."""
    rows: list[dict[str, Any]] = []
    for variant, found in rates.items():
        speeds = [rate.images / rate.seconds for rate in found]
        first = rows[0]["each_round"] if rows else speeds
        ratios = [speed / base for speed, base in zip(speeds, first, strict=True)]
        idle = [rate.idle for rate in found if rate.idle is not None]
        rows.append(
            {
                **variant._asdict(),
                "images_per_s": median(speeds),
                "each_round": speeds,
                "ratio": median(ratios),
                "idle": median(idle) if idle else None,
            }
        )
    return rows
