"""Explanations for readers of a benchmark: machine, versions, command, meaning of the figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.serve.bench.report.table import measured, on_gpu
from zoo.serve.bench.timing import ROUNDS, RUNS_FOR_P99, WARMUP_RUNS, WARMUP_SECONDS

if TYPE_CHECKING:
    from zoo.serve.bench.measurement import Report, Row

QUICK = "Rough figures from few runs and images (--quick). Measure again without --quick to rely on them."
BUSY = 0.5
"""Share of the cores used by other work above which a report warns."""

WARM_UP = f"{WARMUP_SECONDS:g} s and {WARMUP_RUNS} runs"
READING = (
    "End to end: from uint8 images to uint8 masks in host memory, by the host's clock.",
    f"No outlier is removed; p99 needs {RUNS_FOR_P99} runs.",
    f"Models and backends took turns in {ROUNDS} rounds after a warm-up of at least {WARM_UP}.",
    "eager is PyTorch in fp32, eager-amp in mixed precision and channels last: speed without an export.",
    "Over eager, over eager-amp: speed-up, a ratio of p50s, with the range of the rounds in brackets.",
    "Agreement: share of the pixels with the class of eager's fp32 mask.",
    "SingleStream (batch 1, figure: p90) and Offline (largest batch, figure: images/s) are MLPerf's names.",
)
ON_CPU = ("Images/s on a CPU: from the same runs, back to back.",)
ON_GPU = (
    "Images/s on a GPU: from separate runs with one query enqueued ahead of the running one.",
    "GPU compute, to GPU and back: between CUDA events, with pinned host memory, one query at a time.",
    "GPU latency: percentiles of the sum of these three per query.",
    "Enqueue: the host's time to launch a query; if it is close to GPU compute, the GPU waits for the host.",
    "GPU memory: increase of the used memory of the whole GPU by loading and running.",
)
MATCHED = (
    "Like trtexec --noDataTransfers: images and masks stayed on the GPU, with one query enqueued ahead.",
    "End to end still includes the transfers.",
)


def warnings(report: Report) -> list[str]:
    """Return warnings about the figures."""
    load, cores = report.machine["load"], report.machine["cores"]
    found = [QUICK] if report.settings.quick else []
    if load is not None and load > BUSY * cores:
        found.append(
            f"The machine was busy before the benchmark (load average {load:g} on {cores} cores): latencies "
            f"are higher than on an idle one; ratios within a round remain valid."
        )
    held = (report.machine.get("gpu_after") or {}).get("held_down_by", [])
    if slowed := [cause for cause in held if cause != "idle"]:
        found.append(f"The GPU's clocks were reduced at the end: {', '.join(slowed)}.")
    return found


def facts(report: Report) -> list[tuple[str, str]]:
    """Return the facts of the measurement by name: machine and settings."""
    machine, settings = report.machine, report.settings
    graphs = {row.name for row in report.rows if row.cuda_graph}
    effort = f"at least {settings.seconds:g} s and {settings.min_runs} runs for each backend and batch size"
    found = [
        ("processor", f"{machine['cpu']}, {machine['cores']} cores, {settings.threads} threads each backend"),
        ("system", machine["system"]),
        ("load average", f"{machine['load']} before, {machine.get('load_after')} after"),
    ]
    if machine["gpu"]:
        found.append(("GPU", _listed(machine["gpu"])))
        states = ((when, machine.get(f"gpu_{when}")) for when in ("before", "after"))
        found += [(f"GPU {when}", _listed(state)) for when, state in states if state]
        found.append(("CUDA graphs", ", ".join(sorted(graphs)) or "none"))
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items() if version)
    return [
        *found,
        ("versions", versions),
        ("effort", effort),
        ("begun", report.timestamp),
        ("command", report.command),
    ]


def notes(report: Report) -> list[str]:
    """Return explanations of the figures."""
    rows = measured(report.rows)
    with_gpu = on_gpu(rows)
    found = [*READING, *(ON_CPU if len(with_gpu) < len(rows) else ()), *(ON_GPU if with_gpu else ())]
    if report.settings.match_trtexec:
        found += [*MATCHED, *(f"The same with trtexec: {line}" for line in map(trtexec, with_gpu) if line)]
    if evaluated := next((row.accuracy for row in rows if row.accuracy), None):
        found.append(
            f"mIoU: of the very file that was timed, on {evaluated.images} of {evaluated.available} val "
            f"images, evenly spaced, protocol whole, resized to the measured size as in production; in "
            f"brackets the difference to eager's on the same images, in points. With few images, chance "
            f"plays a part."
        )
    return found


def trtexec(row: Row) -> str:
    """Return the `trtexec` command that measures the same, empty if a row is not TensorRT's."""
    if not row.runtime.startswith("TensorRT ") or row.imgsz is None:
        return ""
    graph = " --useCudaGraph" if row.cuda_graph else ""
    shape = f"image:{row.batch}x{row.imgsz[0]}x{row.imgsz[1]}x3"
    return (
        f"trtexec --loadEngine={row.artifact} --shapes={shape} --noDataTransfers --warmUp=200 --duration=3 "
        f"--iterations=100 --percentile=50,90,99{graph}"
    )


def _listed(values: dict[str, Any]) -> str:
    texts = (
        (key, " and ".join(value) or "nothing" if isinstance(value, list) else value)
        for key, value in values.items()
    )
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in texts)
