"""The figures of a suite as tables of text."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from zoo.evaluation.figures import duration
from zoo.serve.bench.measurement import ABSENT, number
from zoo.serve.bench.report.table import ratio, share, throughput
from zoo.suite.reading import missing_rows, of_kind, queries_of, steps_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.suite.reading import Query, Step
    from zoo.suite.record import Record

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""The head of a table and its lines."""

COPIES = {
    "memory": "copy within memory, read and write",
    "to_gpu": "copy from pinned host memory to the GPU",
    "from_gpu": "copy from the GPU to pinned host memory",
}
TRAINING = (
    "variant",
    "phase",
    "step p50 ms",
    "p90 ms",
    "images/s",
    "x plain",
    "peak memory GiB",
    "loss terms",
    "contrastive",
    "host syncs",
    "TFLOP/s",
    "of bf16 peak",
)
INFERENCE = (
    "backend",
    "batch",
    "p50 ms",
    "p90 ms",
    "images/s",
    "GPU compute p50 ms",
    "x eager",
    "agreement",
    "roofline ms",
    "x roofline",
    "bound by",
    "memory MB",
)
PARTS = ("part", "state", "took", "begun, UTC", "commit", "why")


def markdown(table: Table, alignment: str = "--:") -> str:
    """Return a table as Markdown.

    Args:
        table: head and lines.
        alignment: of all columns but the first: right for numbers, `---` is left.
    """
    head, rows = table
    rule = ("---", *[alignment] * (len(head) - 1))
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in (head, rule, *rows))


def peaks(machine: dict[str, Any]) -> Table:
    """Return what the machine can do."""
    rows: list[tuple[str, ...]] = [
        (f"products of matrices, {name}", f"{number(value)} TFLOP/s")
        for name, value in machine.get("tflops", {}).items()
    ]
    rows += [(COPIES[way], f"{number(value)} GB/s") for way, value in machine.get("gb_per_s", {}).items()]
    return ("peak", "measured"), rows


def training(records: Sequence[Record], machine: dict[str, Any]) -> dict[str, Table]:
    """Return a table for each method and encoder, by what it is of."""
    peak = machine.get("tflops", {}).get("bf16")
    found: dict[str, Table] = {}
    for name, group in groupby(steps_of(records), key=lambda step: step.name):
        steps = list(group)
        found[f"{name}{_size(steps[0])}"] = TRAINING, [_step_line(step, peak) for step in steps]
    return found


def inference(records: Sequence[Record]) -> dict[str, Table]:
    """Return a table for each model and size, by what it is of."""
    queries = queries_of(records)
    keys = dict.fromkeys((query.model, query.size) for query in queries)
    return {
        f"{model}, {size[0]}x{size[1]}": (
            INFERENCE,
            [_query_line(query) for query in queries if (query.model, query.size) == (model, size)],
        )
        for model, size in keys
    }


def not_inferred(records: Sequence[Record]) -> list[str]:
    """Return a line for each reason why a backend has no figures: of what, and why."""
    reasons: dict[str, list[str]] = {}
    for record in of_kind(records, "infer"):
        for row in missing_rows(record):
            height, width = record.inputs.options["imgsz"]
            name = f"{row.name} of {row.model} at {height}x{width}, batch {row.batch}"
            reasons.setdefault(str(row.reason), []).append(name)
        for batch, reason in (record.figures or {})["failed"].items():
            reasons.setdefault(reason, []).append(f"{record.name} at batch {batch}")
    return [f"{_shortened(names)}: {reason}" for reason, names in reasons.items()]


def parts(records: Sequence[Record]) -> Table:
    """Return what became of each part."""
    return PARTS, [
        (
            record.name,
            record.state,
            duration(record.seconds),
            record.begun.removesuffix("+00:00"),
            _commit(record),
            record.reason or "",
        )
        for record in records
    ]


def _step_line(step: Step, peak: float | None) -> tuple[str, ...]:
    figures = step.figures
    times = figures["step_ms"]
    flops, mib, syncs = figures.get("flops_per_step"), figures.get("peak_mib"), figures.get("host_syncs")
    tflops = None if flops is None else flops / times["p50"] / 1e9
    return (
        step.variant,
        step.phase,
        number(times["p50"]),
        number(times["p90"]),
        number(figures["images_per_s"]),
        ABSENT if step.over_plain is None else f"{step.over_plain:.2f}x",
        ABSENT if mib is None else f"{mib / 1024:.2f}",
        _percent(figures.get("loss_share")),
        _percent(figures.get("contrast_share")),
        ABSENT if syncs is None else str(syncs),
        number(tflops),
        _percent(None if tflops is None or peak is None else tflops / peak),
    )


def _query_line(query: Query) -> tuple[str, ...]:
    row, roof = query.row, query.roof
    times, over = row.end_to_end_ms, query.over_roof
    assert times is not None
    return (
        row.name,
        str(row.batch),
        number(times.p50),
        number(times.p90),
        number(throughput(row)),
        number(row.gpu_compute_ms.p50 if row.gpu_compute_ms else None),
        ratio(row.speedup),
        share(row.agreement),
        number(roof.ms if roof else None),
        ABSENT if over is None else f"{number(over)}x",
        f"{roof.bound} ({roof.peak})" if roof else ABSENT,
        number(None if row.device_memory_bytes is None else row.device_memory_bytes / 1e6),
    )


def _size(step: Step) -> str:
    recipe = step.recipe
    height, width = recipe["imgsz"]
    return (
        f": {recipe['architecture']} {recipe['encoder']}, output stride {recipe['output_stride']}, "
        f"{height}x{width}, {recipe['batch_l']} labeled and {recipe['batch_u']} unlabeled images"
    )


def _percent(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1%}"


def _commit(record: Record) -> str:
    commit = record.commit
    if not commit or not commit["commit"]:
        return ABSENT
    return f"{commit['commit'][:8]}{', changed' if commit['dirty'] else ''}"


def _shortened(names: Sequence[str], most: int = 3) -> str:
    """Return some names and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
