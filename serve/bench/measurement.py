"""What a benchmark is asked for and what it finds, as it stands in `benchmark.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from zoo.frozen import Frozen
from zoo.predictors.backends import BACKENDS

ABSENT = "\N{EN DASH}"

Scenario = Literal["SingleStream", "Offline"]
"""Of MLPerf: one query after the other, whose figure is the latency; all at once, whose is the throughput."""


class Settings(Frozen):
    """What to measure and for how long.

    Args:
        backends: names such as `ort` or `ort:int8`, see `choices`; None for all that can be had.
        batches: batch sizes.
        imgsz: height and width; None for the model's training crop.
        data: spec of the images; None for the data that the model was trained on.
        device: `cpu` or `cuda`.
        threads: of the CPU, for every backend.
        seconds: at least this long for each backend and batch size.
        min_runs: at least this many runs for each.
        images: labeled images that the mIoU is measured on, at most; 0 for none.
        match_trtexec: leave images and masks on the GPU, as `trtexec --noDataTransfers`.
        quick: whether effort was lowered for a first look.
    """

    backends: tuple[str, ...] | None = None
    batches: tuple[int, ...] = (1,)
    imgsz: tuple[int, int] | None = None
    data: str | None = None
    device: str = "cpu"
    threads: int = 1
    seconds: float = 3.0
    min_runs: int = 100
    images: int = 64
    match_trtexec: bool = False
    quick: bool = False


class Times(Frozen):
    """Milliseconds of every counted run; no outlier is removed.

    Args:
        n: how many runs.
        min: the fastest.
        mean: of all.
        p50: the median; likewise `p90`, and `p99`, which needs 1000 runs.
        rounds: the median of each round.
    """

    n: int
    min: float
    mean: float
    p50: float
    p90: float
    p99: float | None
    rounds: tuple[float, ...]


class Speedup(Frozen):
    """How many times as fast as a baseline of the same model and batch size.

    Args:
        ratio: of the medians.
        low: the smallest ratio of a round's medians.
        high: the largest.
    """

    ratio: float
    low: float
    high: float


class Throughput(Frozen):
    """Images over time.

    Args:
        images_per_s: images over the wall time of all queries.
        queries: how many; a query is a batch.
        seconds: the wall time.
        pipelined: whether one query was enqueued ahead, in runs of their own (on a GPU), or each one waited
            for the one before, in the runs that the latency is of (on a CPU).
    """

    images_per_s: float
    queries: int
    seconds: float
    pipelined: bool


class Accuracy(Frozen):
    """How good the masks of a backend are, each image brought to the measured size as in production.

    Args:
        miou: mean IoU, between 0 and 1.
        delta: `miou` minus that of eager fp32 on the same images; None where that was not measured.
        pixel_accuracy: share of the labeled pixels.
        images: how many of `val`, evenly spaced.
        available: how many there are.
    """

    miou: float | None
    delta: float | None = None
    pixel_accuracy: float | None
    images: int
    available: int

    def compared_with(self, miou: float | None) -> Accuracy:
        """Return it with the difference to eager's mIoU."""
        delta = None if self.miou is None or miou is None else self.miou - miou
        return self.model_copy(update={"delta": delta})


class Row(Frozen):
    """The figures of one backend at one batch size, or the reason why it has none.

    Args:
        model: the path that was measured.
        backend: see `zoo.predictors.load`.
        precision: of weights and activations; of the convolutions for `eager-amp`.
        runtime: what ran where.
        artifact: the file that was run.
        artifact_bytes: its size.
        data: spec of the images.
        imgsz: their height and width.
        batch: their number; None if the backend could not be loaded at all.
        scenarios: what MLPerf calls this, SingleStream at batch 1 and Offline at the largest.
        reason: why there are no figures.
        end_to_end_ms: uint8 images in host memory to uint8 masks in host memory, by the host's clock.
        gpu_compute_ms: between CUDA events around the network, without transfers.
        h2d_ms: images to the GPU, from pinned memory.
        d2h_ms: masks back, to pinned memory.
        latency_ms: the sum of these three of each query.
        enqueue_ms: the host's time to launch a query.
        throughput: see `Throughput`.
        bytes_h2d: moved by a query.
        bytes_d2h: moved back.
        device_memory_bytes: what the backend took of the GPU's memory, at most.
        cuda_graph: whether a query is one replayed CUDA graph; None on a CPU.
        speedup: over eager fp32; None where it was not measured.
        speedup_amp: over `eager-amp`; likewise.
        agreement: share of pixels as in eager's fp32 masks; None without a bundle to take them from.
        accuracy: see `Accuracy`.
        accuracy_reason: why there is none.
        load_s: seconds to load the model.
        build_s: seconds that were spent once to build the engine or to compile; None where nothing is built.
        first_run_s: seconds of the first run.
    """

    model: str
    backend: str
    precision: str | None = None
    runtime: str = ""
    artifact: str | None = None
    artifact_bytes: int | None = None
    data: str | None = None
    imgsz: tuple[int, int] | None = None
    batch: int | None = None
    scenarios: tuple[Scenario, ...] = ()
    reason: str | None = None
    end_to_end_ms: Times | None = None
    gpu_compute_ms: Times | None = None
    h2d_ms: Times | None = None
    d2h_ms: Times | None = None
    latency_ms: Times | None = None
    enqueue_ms: Times | None = None
    throughput: Throughput | None = None
    bytes_h2d: int | None = None
    bytes_d2h: int | None = None
    device_memory_bytes: int | None = None
    cuda_graph: bool | None = None
    speedup: Speedup | None = None
    speedup_amp: Speedup | None = None
    agreement: float | None = None
    accuracy: Accuracy | None = None
    accuracy_reason: str | None = None
    load_s: float | None = None
    build_s: float | None = None
    first_run_s: float | None = None

    @property
    def name(self) -> str:
        """Return what `--backends` takes: the backend, with the precision of the file it runs."""
        row = BACKENDS.get(self.backend)  # None of a report of another machine
        runs_bundle = self.precision is None or (row is not None and not row.suffix)
        return self.backend if runs_bundle else f"{self.backend}:{self.precision}"

    def updated(self, **changes: Any) -> Row:
        """Return a copy with some fields changed."""
        return self.model_copy(update=changes)


class Report(Frozen):
    """The rows of one call with what is needed to judge and repeat them.

    Args:
        timestamp: when it began, UTC.
        command: the command line.
        machine: see `bench.machine`; `load_after` is the load when it ended, `gpu_before` and `gpu_after`
            are clocks, temperature, power and what held the clocks down.
        versions: of the runtimes, None for those not installed.
        settings: as given.
        rows: by model, batch size, backend; then those that could not be loaded.
    """

    format: int = 2
    timestamp: str
    command: str
    machine: dict[str, Any]
    versions: dict[str, str | None]
    settings: Settings
    rows: tuple[Row, ...]

    def labels(self) -> dict[str, str]:
        """Return a short name for each model: its run's, folder's or file's, or the path where two are alike.

        `runs/rrn/bundle` becomes `rrn`, `runs/rrn/bundle-branch_1` becomes `rrn-branch_1`,
        `runs/rrn/bundle/model.fp16.onnx` becomes `model.fp16.onnx`.
        """
        paths = dict.fromkeys(Path(row.model) for row in self.rows)
        names = [_label(path.absolute()) for path in paths]
        return {
            str(path): name if names.count(name) == 1 else str(path)
            for path, name in zip(paths, names, strict=True)
        }


def _label(path: Path) -> str:
    name, _, variant = path.name.partition("-")
    return path.parent.name + (variant and f"-{variant}") if name == "bundle" else path.name


def number(value: float | None) -> str:
    """Return three significant digits, all digits before the point.

    Example:
        >>> [number(value) for value in (0.01234, 4.5, 99.96, 1234.5)]
        ['0.0123', '4.50', '100', '1234']
    """
    if value is None:
        return ABSENT
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"
