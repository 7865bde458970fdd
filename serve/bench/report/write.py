"""A benchmark on disk: `benchmark.html`, `benchmark.json`, `benchmark.md`, `benchmark.png`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.bundle.bundle import replacing, write_json
from zoo.serve.bench.report.page import html
from zoo.serve.bench.report.plot import write_plot
from zoo.serve.bench.report.reading import facts, notes, warnings
from zoo.serve.bench.report.table import (
    COMPARED,
    COST,
    GPU,
    MAIN,
    comparison,
    lines,
    on_gpu,
    why_no_miou,
    why_not,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zoo.serve.bench.measurement import Report, Row
    from zoo.serve.bench.report.table import Column


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write a report as page, JSON, Markdown and picture and return the paths; none is ever half written."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data, text, picture = (folder / f"benchmark.{suffix}" for suffix in ("html", "json", "md", "png"))
    write_json(data, report.model_dump(mode="json"))
    for path, content in ((text, markdown(report)), (page, html(report))):
        with replacing(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    with replacing(picture) as temporary:
        write_plot(report, temporary)
    return [page, data, text, picture]


def markdown(report: Report) -> str:
    """Return the report as Markdown: tables for each model, what is missing and why, how it was measured."""
    parts = ["# Benchmark", *(f"**{warning}**" for warning in warnings(report))]
    for model, label in report.labels().items():
        rows = [row for row in report.rows if row.model == model]
        parts += [f"## {label}", _subtitle(rows), _table(rows, MAIN)]
        parts += [_table(gpu_rows, GPU)] if (gpu_rows := on_gpu(rows)) else []
        parts += [f"Not measured: {line}." for line in why_not(rows)]
        parts += [f"No mIoU: {line}." for line in why_no_miou(rows)]
        parts += ["<details><summary>Load, build and first run</summary>", _table(rows, COST), "</details>"]
    if compared := comparison(report):
        parts += ["## Models", f"{COMPARED}.", _markdown(*compared)]
    listed = [*(f"{name}: {value}" for name, value in facts(report)), *notes(report)]
    parts += ["## How", "\n".join(f"- {line}" for line in listed)]
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    return _markdown(*lines(rows, columns))


def _markdown(head: list[str], table: list[list[str]]) -> str:
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *table))


def _subtitle(rows: Sequence[Row]) -> str:
    """Return model and images of a section."""
    row = next((row for row in rows if row.imgsz), rows[0])
    size = "" if row.imgsz is None else f", images of {row.data} at {row.imgsz[0]}x{row.imgsz[1]}"
    return f"`{row.model}`{size}."
