"""A benchmark on disk and on the screen: `benchmark.json`, `benchmark.md`, `benchmark.png`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from zoo.bundle import replacing, write_json
from zoo.serve.measurement import ABSENT, number
from zoo.serve.plot import write_plot
from zoo.serve.timing import ROUNDS, RUNS_FOR_P99, WARMUP_RUNS, WARMUP_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.serve.measurement import Latency, Report, Row

COLUMNS = (
    "backend",
    "batch",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "min ms",
    "images/s",
    "speed-up",
    "agreement",
    "runs",
)
QUICK = "**A quick look: few runs, rough figures. Measure again without `--quick` before relying on them.**"
HOW = f"""\
- `{{command}}`, {{timestamp}}
- {{cpu}}, cores: {{cores}}, threads of every backend: {{threads}}; {{system}}
- load average {{load}} before, {{load_after}} after
- {{installed}}
- at least {{seconds:g}} s and {{min_runs}} runs for each row, after a warm-up of {WARMUP_SECONDS:g} s and
  {WARMUP_RUNS} runs or more, in {ROUNDS} rounds in which models and backends take turns
- a run: uint8 images in host memory to uint8 masks in host memory, by the host's clock; no outlier is
  removed; p99 needs {RUNS_FOR_P99} runs
- speed-up: eager's p50 over the backend's, in brackets the smallest and the largest of a round
- agreement: share of the pixels that have the class of eager's fp32 mask"""
COMPARED = (
    "p50 in ms, in brackets how many times as fast as the first model; all models and backends took turns"
)
STAGES = ("h2d", "compute", "d2h")


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write a report as JSON, Markdown and picture and return the paths; no file is ever half written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"benchmark.{suffix}" for suffix in ("json", "md", "png")]
    write_json(paths[0], report.model_dump(mode="json"))
    with replacing(paths[1]) as path:
        path.write_text(markdown(report), encoding="utf-8")
    with replacing(paths[2]) as path:
        write_plot(report, path)
    return paths


def markdown(report: Report) -> str:
    """Return the report as Markdown: a table for each model, what is missing and why, how it was measured."""
    parts = ["# Benchmark"]
    if report.settings.quick:
        parts.append(QUICK)
    for model, label in report.labels().items():
        rows = [row for row in report.rows if row.model == model]
        parts += [f"## {label}", _subtitle(rows), _markdown_table(*cells(rows))]
        parts += [f"Not measured: {line}" for line in why_not(rows)]
    if compared := comparison(report):
        parts += ["## Models", f"{COMPARED}.", _markdown_table(*compared)]
    parts += ["## How", _how(report)]
    return "\n\n".join(parts) + "\n"


def cells(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the head and the lines of a table of figures, as text; rows without figures are left out."""
    measured = [row for row in rows if row.latency_ms is not None]
    staged = any(row.stages_ms for row in measured)
    head = [*COLUMNS, *(f"{stage} ms" for stage in STAGES)] if staged else [*COLUMNS]
    return head, [_line(row) + (_stages(row) if staged else []) for row in measured]


def comparison(report: Report) -> tuple[list[str], list[list[str]]] | None:
    """Return the head and the lines of a table of one model beside the other; None for a single model."""
    labels = report.labels()
    if len(labels) == 1:
        return None
    measured = [row for row in report.rows if row.latency_ms is not None]
    found = {(row.backend, row.batch, row.imgsz, row.model): row.latency_ms for row in measured}
    first = next(iter(labels))
    lines = []
    for work in dict.fromkeys((row.backend, row.batch, row.imgsz) for row in measured):
        figures = [_beside(found.get((*work, model)), found.get((*work, first))) for model in labels]
        if sum(figure != ABSENT for figure in figures) > 1:
            backend, batch, imgsz = work
            lines.append([backend, str(batch), "x".join(map(str, imgsz or ())), *figures])
    return (["backend", "batch", "size", *labels.values()], lines) if lines else None


def why_not(rows: list[Row]) -> list[str]:
    """Return a line for each row without figures: what and why."""
    return [f"{_what(row)}: {row.reason}" for row in rows if row.latency_ms is None]


def _beside(latency: Latency | None, first: Latency | None) -> str:
    """Return a model's p50 and how many times as fast as the first model it is."""
    if latency is None:
        return ABSENT
    ratio = "" if first is None or first is latency else f" ({first.p50 / latency.p50:.2f}x)"
    return f"{number(latency.p50)}{ratio}"


def _line(row: Row) -> list[str]:
    latency = row.latency_ms
    assert latency is not None
    times = (latency.p50, latency.p90, latency.p99, latency.min, row.images_per_s)
    figures = [number(value) for value in times]
    return [row.backend, str(row.batch), *figures, _speedup(row), _share(row.agreement), str(latency.runs)]


def _stages(row: Row) -> list[str]:
    stages = row.stages_ms or {}
    return [number(stages.get(stage)) for stage in STAGES]


def _speedup(row: Row) -> str:
    if row.speedup is None or row.speedup_range is None:
        return ABSENT
    low, high = row.speedup_range
    return f"{row.speedup:.2f}x" + (f" ({low:.2f}-{high:.2f})" if low != high else "")


def _share(share: float | None) -> str:
    """Return a percentage that says 100 only if not one pixel differs."""
    if share is None:
        return ABSENT
    return "100%" if share == 1 else f"{math.floor(share * 1e5) / 1e3:.3f}%"


def _what(row: Row) -> str:
    return row.backend if row.batch is None else f"{row.backend} at batch {row.batch}"


def _markdown_table(head: list[str], lines: list[list[str]]) -> str:
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def _subtitle(rows: list[Row]) -> str:
    """Return model and images of a section."""
    row = next((row for row in rows if row.imgsz), rows[0])
    size = "" if row.imgsz is None else f", images of {row.data} at {row.imgsz[0]}x{row.imgsz[1]}"
    return f"`{row.model}`{size}."


def _how(report: Report) -> str:
    machine, settings = report.machine, report.settings
    facts = HOW.format(
        **report.model_dump(include={"command", "timestamp"}),
        **machine,
        **settings.model_dump(include={"threads", "seconds", "min_runs"}),
        installed=", ".join(f"{name} {version}" for name, version in report.versions.items() if version),
    )
    if machine["gpu"]:
        facts += "\n- GPU: " + ", ".join(f"{key} {value}" for key, value in machine["gpu"].items())
    return facts
