"""What a reader must know to judge a benchmark: machine, versions, command, what each figure means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.serve.bench.report.table import measured, on_gpu
from zoo.serve.bench.timing import ROUNDS, RUNS_FOR_P99, WARMUP_RUNS, WARMUP_SECONDS

if TYPE_CHECKING:
    from zoo.serve.bench.measurement import Report, Row

QUICK = "A quick look: few runs and images, rough figures. Measure again without --quick to rely on them."
BUSY = 0.5
"""Share of the cores that others keep busy from which a report warns."""

WARM_UP = f"{WARMUP_SECONDS:g} s and {WARMUP_RUNS} runs"
READING = (
    "End to end: uint8 images in host memory to uint8 masks in host memory, by the host's clock.",
    f"No outlier is removed; p99 needs {RUNS_FOR_P99} runs.",
    f"Models and backends took turns in {ROUNDS} rounds after a warm-up of at least {WARM_UP}.",
    "eager is PyTorch in fp32, eager-amp in mixed precision and channels last: speed without an export.",
    "Over eager, over eager-amp: that one's p50 over the backend's, in brackets the range of the rounds.",
    "Agreement: share of the pixels that have the class of eager's fp32 mask.",
    "SingleStream (batch 1, figure: p90) and Offline (largest batch, figure: images/s) are MLPerf's names.",
)
ON_CPU = ("Images/s on a CPU: of the same runs, back to back.",)
ON_GPU = (
    "Images/s on a GPU: of separate runs with one query enqueued ahead of the one that runs.",
    "GPU compute, to GPU and back: between CUDA events, host memory being pinned, one query at a time.",
    "GPU latency: the sum of these three of each query, then the percentiles.",
    "Enqueue: the host's time to launch; where it is close to GPU compute, the GPU waits for the host.",
    "GPU memory: what loading and running added to the memory in use on the whole GPU.",
)
MATCHED = (
    "As trtexec --noDataTransfers: images and masks stayed on the GPU, with one query enqueued ahead.",
    "End to end holds the transfers all the same.",
)


def warnings(report: Report) -> list[str]:
    """Return why the figures are to be taken with care, if they are."""
    load, cores = report.machine["load"], report.machine["cores"]
    found = [QUICK] if report.settings.quick else []
    if load is not None and load > BUSY * cores:
        found.append(
            f"The machine was busy before it began (load average {load:g} on {cores} cores): latencies are "
            f"higher than on an idle one, ratios within a round hold."
        )
    held = (report.machine.get("gpu_after") or {}).get("held_down_by", [])
    if slowed := [cause for cause in held if cause != "idle"]:
        found.append(f"The GPU's clocks were held down at the end: {', '.join(slowed)}.")
    return found


def facts(report: Report) -> list[tuple[str, str]]:
    """Return where and how was measured, by name."""
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
    """Return how to read the figures."""
    rows = measured(report.rows)
    with_gpu = on_gpu(rows)
    found = [*READING, *(ON_CPU if len(with_gpu) < len(rows) else ()), *(ON_GPU if with_gpu else ())]
    if report.settings.match_trtexec:
        found += [*MATCHED, *(f"The same by trtexec: {line}" for line in map(trtexec, with_gpu) if line)]
    if evaluated := next((row.accuracy for row in rows if row.accuracy), None):
        found.append(
            f"mIoU: of the very file that was timed, on {evaluated.images} of {evaluated.available} val "
            f"images, evenly spaced, protocol whole, brought to the measured size as in production; in "
            f"brackets the points to eager's on the same images. Few images leave chance a part in them."
        )
    return found


def trtexec(row: Row) -> str:
    """Return the command of `trtexec` that measures the same, empty if a row is not of TensorRT."""
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
