"""Tables of the figures of a benchmark."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from zoo.serve.bench.measurement import ABSENT, number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoo.serve.bench.measurement import Report, Row, Speedup, Times

Lines = tuple[list[str], list[list[str]]]
"""Head and lines of a table."""

COMPARED = "p50 in ms, with the speed-up over the first model in brackets; all models and backends took turns"


class Column(NamedTuple):
    """Column of a table: its head, and a function from a row to text."""

    head: str
    cell: Callable[[Row], str]


def measured(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that have figures."""
    return [row for row in rows if row.end_to_end_ms is not None]


def lines(rows: Sequence[Row], columns: Sequence[Column]) -> Lines:
    """Return the head and lines of a table of the rows that have figures."""
    return [column.head for column in columns], [
        [column.cell(row) for column in columns] for row in measured(rows)
    ]


def on_gpu(rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose parts were timed on a GPU."""
    return [row for row in rows if row.gpu_compute_ms is not None]


def comparison(report: Report) -> Lines | None:
    """Return a table of the models side by side; None for a single model."""
    labels = report.labels()
    if len(labels) == 1:
        return None
    rows = measured(report.rows)
    found = {(row.name, row.batch, row.imgsz, row.model): row.end_to_end_ms for row in rows}
    first = next(iter(labels))
    table = []
    for work in dict.fromkeys((row.name, row.batch, row.imgsz) for row in rows):
        figures = [_beside(found.get((*work, model)), found.get((*work, first))) for model in labels]
        if sum(figure != ABSENT for figure in figures) > 1:
            name, batch, imgsz = work
            table.append([name, str(batch), "x".join(map(str, imgsz or ())), *figures])
    return (["backend", "batch", "size", *labels.values()], table) if table else None


def why_not(rows: Sequence[Row]) -> list[str]:
    """Return a line for each reason for missing figures, with the names of its backends."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.end_to_end_ms is None:
            name = row.name if row.batch is None else f"{row.name} at batch {row.batch}"
            reasons.setdefault(str(row.reason), []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]


def why_no_miou(rows: Sequence[Row]) -> list[str]:
    """Return a line for each reason for a missing mIoU, with the names of its backends."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.accuracy_reason is not None:
            names = reasons.setdefault(row.accuracy_reason, [])
            names += [row.name] * (row.name not in names)
    return [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]


def share(value: float | None) -> str:
    """Return a percentage, rounded down, so that 100 means that no pixel differs."""
    if value is None:
        return ABSENT
    return "100%" if value == 1 else f"{math.floor(value * 1e5) / 1e3:.3f}%"


def miou(row: Row) -> str:
    """Return the mIoU and its difference to eager's in points."""
    accuracy = row.accuracy
    if accuracy is None or accuracy.miou is None:
        return ABSENT
    is_compared = row.backend != "eager" and accuracy.delta is not None
    return f"{accuracy.miou:.3f}" + (f" ({100 * (accuracy.delta or 0):+.2f})" if is_compared else "")


def megabytes(count: int | None) -> str:
    """Return bytes in MB with three digits."""
    return ABSENT if count is None else number(count / 1e6)


def ratio(value: Speedup | None) -> str:
    """Return a speed-up without its range."""
    return ABSENT if value is None else f"{value.ratio:.2f}x"


def ranged(value: Speedup | None) -> str:
    """Return a speed-up with the range of the rounds."""
    if value is None or value.low == value.high:
        return ratio(value)
    return f"{ratio(value)} ({value.low:.2f}-{value.high:.2f})"


def throughput(row: Row) -> float | None:
    """Return the images per second of a row."""
    return None if row.throughput is None else row.throughput.images_per_s


def _beside(times: Times | None, first: Times | None) -> str:
    """Return a model's p50 and its speed-up over the first model."""
    if times is None:
        return ABSENT
    ratio = "" if first is None or first is times else f" ({first.p50 / times.p50:.2f}x)"
    return f"{number(times.p50)}{ratio}"


def _times(head: str, field: str, statistic: str) -> Column:
    """Return a column of one statistic of the milliseconds in a field."""
    return Column(head, lambda row: number(getattr(getattr(row, field), statistic, None)))


def _seconds(head: str, field: str) -> Column:
    return Column(head, lambda row: number(getattr(row, field)))


NAME = Column("backend", lambda row: row.name)
BATCH = Column("batch", lambda row: str(row.batch))

P50 = _times("p50 ms", "end_to_end_ms", "p50")
P90 = _times("p90 ms", "end_to_end_ms", "p90")
THROUGHPUT = Column("images/s", lambda row: number(throughput(row)))
AGREEMENT = Column("agreement", lambda row: share(row.agreement))

SHORT = (
    NAME,
    BATCH,
    P50,
    P90,
    THROUGHPUT,
    Column("x eager", lambda row: ratio(row.speedup)),
    Column("x amp", lambda row: ratio(row.speedup_amp)),
    AGREEMENT,
    Column("mIoU", miou),
    Column("MB", lambda row: megabytes(row.artifact_bytes)),
)
"""Columns for the terminal."""

MAIN = (
    NAME,
    BATCH,
    P50,
    P90,
    _times("p99 ms", "end_to_end_ms", "p99"),
    THROUGHPUT,
    Column("over eager", lambda row: ranged(row.speedup)),
    Column("over eager-amp", lambda row: ranged(row.speedup_amp)),
    AGREEMENT,
    Column("mIoU (points to eager)", miou),
    Column("file, MB", lambda row: megabytes(row.artifact_bytes)),
)

GPU = (
    NAME,
    BATCH,
    _times("GPU compute p50 ms", "gpu_compute_ms", "p50"),
    _times("GPU compute p99 ms", "gpu_compute_ms", "p99"),
    _times("to GPU p50 ms", "h2d_ms", "p50"),
    _times("back p50 ms", "d2h_ms", "p50"),
    _times("latency p50 ms", "latency_ms", "p50"),
    _times("latency p90 ms", "latency_ms", "p90"),
    _times("latency p99 ms", "latency_ms", "p99"),
    _times("enqueue p50 ms", "enqueue_ms", "p50"),
    Column("moved, MB", lambda row: f"{megabytes(row.bytes_h2d)} + {megabytes(row.bytes_d2h)}"),
    Column("memory, MB", lambda row: megabytes(row.device_memory_bytes)),
    Column("CUDA graph", lambda row: "on" if row.cuda_graph else "off"),
)

COST = (
    NAME,
    BATCH,
    Column("runs", lambda row: str(row.end_to_end_ms.n if row.end_to_end_ms else 0)),
    _times("min ms", "end_to_end_ms", "min"),
    _times("mean ms", "end_to_end_ms", "mean"),
    _seconds("load s", "load_s"),
    _seconds("build s", "build_s"),
    _seconds("first run s", "first_run_s"),
    Column("pixel accuracy", lambda row: share(row.accuracy.pixel_accuracy if row.accuracy else None)),
    Column("runs as", lambda row: row.runtime),
)
