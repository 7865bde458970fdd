"""What a benchmark is asked for and what it finds, as it stands in `benchmark.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

ABSENT = "\N{EN DASH}"


class Settings(BaseModel):
    """What to measure and for how long.

    Args:
        backends: of `zoo.predictors.load`; None for all of a bundle's, or for an artifact's own.
        batches: batch sizes.
        imgsz: height and width; None for the model's training crop.
        data: spec of the images; None for the data that the model was trained on.
        device: `cpu` or `cuda`.
        threads: of the CPU, for every backend.
        seconds: at least this long for each backend and batch size.
        min_runs: at least this many runs for each.
        quick: whether `seconds` and `min_runs` were lowered for a first look.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backends: tuple[str, ...] | None = None
    batches: tuple[int, ...] = (1,)
    imgsz: tuple[int, int] | None = None
    data: str | None = None
    device: str = "cpu"
    threads: int = 1
    seconds: float = 3.0
    min_runs: int = 100
    quick: bool = False


class Latency(BaseModel):
    """Milliseconds from images to masks, both in host memory.

    Args:
        runs: how many were counted.
        min: the fastest.
        p50: the median; likewise `p90`, and `p99`, which needs 1000 runs.
        rounds: the median of each round.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: int
    min: float
    p50: float
    p90: float
    p99: float | None
    rounds: tuple[float, ...]


class Row(BaseModel):
    """The figures of one backend at one batch size, or the reason why it has none.

    Args:
        model: the path that was measured.
        backend: `eager`, `compile`, `ort`, `trt`.
        runtime: what ran where.
        data: spec of the images.
        imgsz: their height and width.
        batch: their number; None if the backend could not be loaded at all.
        reason: why there are no figures.
        latency_ms: see `Latency`.
        images_per_s: images over the time of all runs.
        speedup: p50 of eager over p50; None where eager was not measured.
        speedup_range: the smallest and the largest such ratio of a round.
        agreement: share of pixels as in eager's masks; None without a bundle to take them from.
        stages_ms: medians of `h2d`, `compute` and `d2h` on a GPU.
        load_s: seconds to load the model.
        first_run_s: seconds of the first run, which may compile.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    backend: str
    runtime: str = ""
    data: str | None = None
    imgsz: tuple[int, int] | None = None
    batch: int | None = None
    reason: str | None = None
    latency_ms: Latency | None = None
    images_per_s: float | None = None
    speedup: float | None = None
    speedup_range: tuple[float, float] | None = None
    agreement: float | None = None
    stages_ms: dict[str, float] | None = None
    load_s: float | None = None
    first_run_s: float | None = None

    def updated(self, **changes: Any) -> Row:
        """Return a copy with some fields changed."""
        return self.model_copy(update=changes)


class Report(BaseModel):
    """The rows of one call with what is needed to judge and repeat them.

    Args:
        timestamp: when it began, UTC.
        command: the command line.
        machine: see `zoo.serve.machine`; `load_after` is the load when it ended.
        versions: of the runtimes, None for those not installed.
        settings: as given.
        rows: by model, batch size, backend; then those that could not be loaded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
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
