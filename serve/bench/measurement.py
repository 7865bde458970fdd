"""Settings and results of a benchmark, as written to `benchmark.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from zoo.frozen import Frozen
from zoo.predictors.backends import BACKENDS

ABSENT = "\N{EN DASH}"

Scenario = Literal["SingleStream", "Offline"]
"""MLPerf's scenarios: queries one after the other (latency), or all at once (throughput)."""


class Settings(Frozen):
    """Settings of a benchmark.

    Args:
        backends: names such as `ort` or `ort:int8`, see `choices`; None for all that are available.
        batches: batch sizes.
        imgsz: height and width; None for the model's training crop.
        data: spec of the images; None for the model's training data.
        device: `cpu` or `cuda`.
        threads: CPU threads of every backend.
        seconds: minimum duration for each backend and batch size.
        min_runs: minimum runs for each.
        images: maximum number of labeled images for the mIoU; 0 for no mIoU.
        match_trtexec: whether to leave images and masks on the GPU, like `trtexec --noDataTransfers`.
        quick: whether the effort was reduced for rough figures.
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
    """Statistics of all counted runs in milliseconds; no outlier is removed.

    Args:
        n: number of runs.
        min: fastest run.
        mean: mean of all runs.
        p50: median; `p90` and `p99` are percentiles, and `p99` needs 1000 runs.
        rounds: median of each round.
    """

    n: int
    min: float
    mean: float
    p50: float
    p90: float
    p99: float | None
    rounds: tuple[float, ...]


class Speedup(Frozen):
    """Speed-up over a baseline of the same model and batch size.

    Args:
        ratio: ratio of the medians.
        low: smallest ratio of the medians of a round.
        high: largest ratio of the medians of a round.
    """

    ratio: float
    low: float
    high: float


class Throughput(Frozen):
    """Throughput of a backend.

    Args:
        images_per_s: images over the wall time of all queries.
        queries: number of queries; a query is a batch.
        seconds: wall time of all queries.
        pipelined: whether one query was enqueued ahead, in separate runs (on a GPU), or each query waited for
            the one before, in the runs of the latency (on a CPU).
    """

    images_per_s: float
    queries: int
    seconds: float
    pipelined: bool


class Accuracy(Frozen):
    """Accuracy of a backend, with each image resized to the measured size as in production.

    Args:
        miou: mean IoU, between 0 and 1.
        delta: difference to the mIoU of eager fp32 on the same images; None if that was not measured.
        pixel_accuracy: share of correct labeled pixels.
        images: number of evenly spaced `val` images.
        available: number of `val` images in the source.
    """

    miou: float | None
    delta: float | None = None
    pixel_accuracy: float | None
    images: int
    available: int

    def compared_with(self, miou: float | None) -> Accuracy:
        """Return a copy with the difference to eager's mIoU."""
        delta = None if self.miou is None or miou is None else self.miou - miou
        return self.model_copy(update={"delta": delta})


class Row(Frozen):
    """Figures of one backend at one batch size, or the reason for their absence.

    Args:
        model: path of the model.
        backend: name of the backend, see `zoo.predictors.load`.
        precision: precision of weights and activations; for `eager-amp`, of the convolutions.
        runtime: description of runtime and device.
        artifact: file that was run.
        artifact_bytes: size of the file.
        data: spec of the images.
        imgsz: height and width of the images.
        batch: number of images per run; None if the backend could not be loaded.
        scenarios: MLPerf's names, SingleStream at batch 1 and Offline at the largest batch.
        reason: reason for the absence of figures.
        end_to_end_ms: from uint8 images to uint8 masks in host memory, by the host's clock.
        gpu_compute_ms: between CUDA events around the network, without transfers.
        h2d_ms: transfer of the images to the GPU, from pinned memory.
        d2h_ms: transfer of the masks back, to pinned memory.
        latency_ms: sum of these three for each query.
        enqueue_ms: time of the host to launch a query.
        throughput: throughput of the backend.
        bytes_h2d: bytes that a query moves to the GPU.
        bytes_d2h: bytes that a query moves back.
        device_memory_bytes: peak GPU memory of the backend.
        cuda_graph: whether a query is one replayed CUDA graph; None on a CPU.
        speedup: speed-up over eager fp32; None if that was not measured.
        speedup_amp: speed-up over `eager-amp`; None if that was not measured.
        agreement: share of pixels with the class of eager's fp32 masks; None without a bundle.
        accuracy: accuracy on labeled images.
        accuracy_reason: reason for a missing accuracy.
        load_s: seconds to load the model.
        build_s: seconds spent once to build the engine or to compile; None if nothing is built.
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
        """Return the name as in `--backends`: the backend, with the precision of its file."""
        row = BACKENDS.get(self.backend)  # None for a plugin's backend in a report from another machine
        runs_bundle = self.precision is None or (row is not None and not row.suffix)
        return self.backend if runs_bundle else f"{self.backend}:{self.precision}"

    def updated(self, **changes: Any) -> Row:
        """Return a copy with some fields changed."""
        return self.model_copy(update=changes)


class Report(Frozen):
    """Rows of one benchmark, with the facts needed to judge and repeat it.

    Args:
        timestamp: start of the benchmark, UTC.
        command: command line.
        machine: machine, see `bench.machine`; `load_after` is the load at the end, `gpu_before` and
            `gpu_after` are clocks, temperature, power and reasons for reduced clocks.
        versions: versions of the runtimes, None if not installed.
        settings: settings of the benchmark.
        rows: rows by model, batch size and backend; then backends that could not be loaded.
    """

    format: int = 2
    timestamp: str
    command: str
    machine: dict[str, Any]
    versions: dict[str, str | None]
    settings: Settings
    rows: tuple[Row, ...]

    def labels(self) -> dict[str, str]:
        """Return a short name for each model: that of its run, folder or file, or the path if two are equal.

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
    """Return a number with three significant digits and all digits before the decimal point.

    Example:
        >>> [number(value) for value in (0.01234, 4.5, 99.96, 1234.5)]
        ['0.0123', '4.50', '100', '1234']
    """
    if value is None:
        return ABSENT
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"
