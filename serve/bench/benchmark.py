"""Benchmark of models on every backend: comparable latency, throughput, agreement and mIoU.

All backends of a model get the same real images, at the network's size, and the same number of CPU threads.
Backends and models take turns, so that other work on the machine slows all of them. An end-to-end run goes
from uint8 images to uint8 masks in host memory and is timed with the host's clock (`timing`); on a GPU its
parts are also timed separately, as by `trtexec` (`queries`). The speed-up over eager PyTorch is a ratio of
medians, with the range of the ratios of single rounds. The agreement is the share of pixels with the same
class as in eager PyTorch's fp32 masks, and the mIoU is that of the same loaded artifact
(`zoo.serve.bench.accuracy`).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import ZooError
from zoo.predictors.backends import BACKENDS, versions
from zoo.serve.bench.accuracy import measure_accuracy
from zoo.serve.bench.choices import AMP, REFERENCE, parse_choice
from zoo.serve.bench.contender import Contender, load_contenders, reason
from zoo.serve.bench.gpu import gpu_state
from zoo.serve.bench.machine import compiler_for, cpu_threads, describe_machine, load_average
from zoo.serve.bench.measurement import Report, Row, Scenario, Settings, Speedup, Throughput, Times
from zoo.serve.bench.queries import GpuTurn, Slice, Staged
from zoo.serve.bench.report.table import measured, why_not
from zoo.serve.bench.timing import ROUNDS, RUNS_FOR_P99, Budget, in_turns, settled, warm_up

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.serve.bench.timing import Rounds

    Images = NDArray[Any]

Say = Callable[[str], None]
Turn = Callable[[Budget], Slice]

PARTS = ("gpu_compute", "h2d", "d2h", "latency", "enqueue")


def benchmark(models: Sequence[Path], settings: Settings, say: Say) -> Report:
    """Return the report of all models on all backends; a backend that cannot run has a row with the reason.

    Args:
        models: bundle folders and artifacts.
        settings: settings of the benchmark.
        say: called with a line for each step.

    Raises:
        ZooError: no requested backend can run on this machine, or the settings need a GPU.
    """
    if settings.match_trtexec and settings.device == "cpu":
        raise ZooError(
            "--match-trtexec leaves images on a GPU, but the device is cpu: leave it out or use --device cuda"
        )
    timestamp = datetime.now(UTC).isoformat(timespec="seconds")
    machine = describe_machine()
    with cpu_threads(settings.threads), compiler_for(len(models) * (len(settings.batches) + 1)):
        loaded = [load_contenders(model, settings, say) for model in models]
        contenders = [contender for found, _ in loaded for contender in found]
        unloaded = [row for _, failed in loaded for row in failed]
        check_some_run([contender.row for contender in contenders], unloaded, settings)
        gpu_before = gpu_state()
        rows = [row for batch in settings.batches for row in measure(contenders, batch, settings, say)]
        gpu_after = gpu_state()
        rows = with_accuracy(rows, contenders, settings.images, say)
    rows += unloaded
    check_some_run(measured(rows), rows, settings)
    order = [str(model) for model in models]
    rows.sort(key=lambda row: order.index(row.model))
    after = {"load_after": load_average(), "gpu_before": gpu_before, "gpu_after": gpu_after}
    return Report(
        timestamp=timestamp,
        command=shlex.join(["zoo", *sys.argv[1:]]),
        machine=machine | after,
        versions=versions(),
        settings=settings,
        rows=tuple(rows),
    )


def check_some_run(able: Sequence[Row], rows: Sequence[Row], settings: Settings) -> None:
    """Check that a requested backend can run.

    Args:
        able: rows of the backends that can run.
        rows: rows of the others, with their reasons.
        settings: settings with the requested backends; the baselines are always added.

    Raises:
        ZooError: none can run; the message has all reasons.
    """
    asked = {parse_choice(name).backend for name in settings.backends or ()}
    if not any(row.backend in asked or not asked for row in able):
        reasons = "; ".join(why_not([row for row in rows if row.backend in asked or not asked]))
        raise ZooError(f"no backend can run on this machine ({reasons}): select one that can with --backends")


def measure(contenders: Sequence[Contender], batch: int, settings: Settings, say: Say) -> list[Row]:
    """Return a row for each contender at one batch size."""
    ready: list[tuple[Row, Turn]] = []
    failed: list[Row] = []
    for contender in contenders:
        images = contender.samples.batch(batch)
        row = contender.row.updated(
            batch=batch, imgsz=images.shape[1:3], scenarios=scenarios(batch, settings.batches)
        )
        say(f"{row.model}, batch {batch}: warming up {row.name}")
        try:
            ready.append(prepare(contender._replace(row=row), images, resident=settings.match_trtexec))
        except Exception as error:  # a runtime may raise anything; the row records it
            failed.append(row.updated(reason=reason(error)))

    def on_round(number: int) -> None:
        names = ", ".join(dict.fromkeys(row.name for row, _ in ready))
        say(f"batch {batch}: round {number} of {ROUNDS} of {names}")

    budget = Budget(settings.seconds, settings.min_runs)
    found = in_turns([turn for _, turn in ready], budget, on_round)
    of_backend = {(row.model, row.backend): slices for (row, _), slices in zip(ready, found, strict=True)}
    rows = [
        row.updated(
            **figures(slices, batch),
            speedup=speedup(of_backend.get((row.model, REFERENCE)), slices),
            speedup_amp=speedup(of_backend.get((row.model, AMP)), slices),
        )
        for (row, _), slices in zip(ready, found, strict=True)
    ]
    return rows + failed


def prepare(contender: Contender, images: Images, *, resident: bool) -> tuple[Row, Turn]:
    """Return the row of a backend after its warm-up, and its turn.

    Args:
        contender: contender with the row of this batch size.
        images: (B, H, W, 3) uint8 images.
        resident: whether to leave images and masks on the GPU.
    """
    predictor, memory, row = contender.predictor, contender.memory, contender.row
    run = partial(predictor.run, images)
    with memory.watch() if memory else nullcontext():
        first_run_s = warm_up(run)
    row = row.updated(
        first_run_s=first_run_s,
        build_s=first_run_s if BACKENDS[row.backend].compiles else row.build_s,
        agreement=contender.samples.agreement(predictor, len(images)),
        device_memory_bytes=memory.peak if memory else None,
    )
    if not isinstance(predictor, Staged) or predictor.device.type != "cuda":
        return row, lambda budget: Slice(settled(run, budget))
    turn = GpuTurn(predictor, run, images, resident=resident)
    return row.updated(
        bytes_h2d=turn.bytes_h2d,
        bytes_d2h=turn.bytes_d2h,
        cuda_graph=bool(getattr(predictor, "cuda_graph", False)),
    ), turn


def figures(slices: Sequence[Slice], batch: int) -> dict[str, Any]:
    """Return the fields of a row that are computed from its runs.

    Args:
        slices: runs of each round.
        batch: images per run.
    """
    rounds = [[1000 * seconds for seconds in each.end_to_end] for each in slices]
    found: dict[str, Any] = {"end_to_end_ms": times(rounds)}
    queries = sum(each.ahead[0] for each in slices)
    seconds = sum(each.ahead[1] for each in slices)
    if queries:
        for part in PARTS:
            parts = [[getattr(query, part) for query in each.queries] for each in slices]
            found[f"{part}_ms"] = times(parts)
    pipelined = queries > 0
    if not pipelined:
        queries, seconds = sum(map(len, rounds)), sum(map(sum, rounds)) / 1000
    return found | {
        "throughput": Throughput(
            images_per_s=batch * queries / seconds, queries=queries, seconds=seconds, pipelined=pipelined
        )
    }


def times(rounds: Rounds) -> Times:
    """Return the statistics of all runs.

    Args:
        rounds: milliseconds of each run, by round.
    """
    runs = np.concatenate(rounds)
    p50, p90, p99 = np.percentile(runs, (50, 90, 99)).tolist()
    return Times(
        n=len(runs),
        min=runs.min(),
        mean=runs.mean(),
        p50=p50,
        p90=p90,
        p99=p99 if len(runs) >= RUNS_FOR_P99 else None,
        rounds=tuple(float(np.median(each)) for each in rounds),
    )


def speedup(baseline: Sequence[Slice] | None, slices: Sequence[Slice]) -> Speedup | None:
    """Return the end-to-end speed-up of a backend over a baseline in the same rounds."""
    if baseline is None:
        return None
    of_rounds = [
        float(np.median(base.end_to_end) / np.median(each.end_to_end))
        for base, each in zip(baseline, slices, strict=True)
    ]
    medians = [np.median(np.concatenate([each.end_to_end for each in one])) for one in (baseline, slices)]
    return Speedup(ratio=float(medians[0] / medians[1]), low=min(of_rounds), high=max(of_rounds))


def scenarios(batch: int, batches: Sequence[int]) -> tuple[Scenario, ...]:
    """Return MLPerf's names of a measurement at one of these batch sizes."""
    names: dict[Scenario, bool] = {"SingleStream": batch == 1, "Offline": batch == max(batches)}
    return tuple(name for name, fits in names.items() if fits)


def with_accuracy(rows: Sequence[Row], contenders: Sequence[Contender], count: int, say: Say) -> list[Row]:
    """Return the rows with the mIoU of their backends, or the reason for its absence.

    Args:
        rows: rows with or without figures.
        contenders: contenders, with eager before those that are compared with it.
        count: number of images.
        say: called with a line for each step.
    """
    keys = {(row.model, row.name) for row in measured(rows)}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    of_eager: dict[str, float | None] = {}
    for predictor, _, source, _, row in contenders:
        key = row.model, row.name
        if key not in keys:
            continue
        if count:
            say(f"{row.model}: mIoU of {row.name}")
        try:
            accuracy = measure_accuracy(predictor, source, count)
        except Exception as error:  # a runtime may raise anything; the row records it
            found[key] = {"accuracy_reason": reason(error)}
            continue
        if row.backend == REFERENCE:
            of_eager[row.model] = accuracy.miou
        found[key] = {"accuracy": accuracy.compared_with(of_eager.get(row.model))}
    return [row.updated(**found.get((row.model, row.name), {})) for row in rows]
