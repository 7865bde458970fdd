"""Report files of a benchmark: HTML page, JSON, Markdown and PNG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.bundle.bundle import write_json, write_text
from zoo.card.tables import markdown_table
from zoo.pages.html import render
from zoo.predictors.backends import color_of
from zoo.serve.bench.measurement import number
from zoo.serve.bench.report.plots import model_plots, tradeoff, write_plot
from zoo.serve.bench.report.reading import facts, notes, warnings
from zoo.serve.bench.report.table import (
    COMPARED,
    COST,
    GPU,
    MAIN,
    comparison,
    lines,
    measured,
    miou,
    on_gpu,
    ratio,
    throughput,
    why_no_miou,
    why_not,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from zoo.serve.bench.measurement import Report, Row

DOT = " \N{MIDDLE DOT} "


NAMES = ("benchmark.html", "benchmark.json", "benchmark.md", "benchmark.png")
"""File names of a report."""


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write a report as page, JSON, Markdown and PNG, each atomically, and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data, text, picture = (folder / name for name in NAMES)
    write_json(data, report.model_dump(mode="json"))
    write_text(text, markdown(report))
    write_text(page, html(report))
    write_plot(report, picture)
    return [page, data, text, picture]


def html(report: Report) -> str:
    """Return the whole report as one page."""
    labels = report.labels()
    return render(
        "serve/bench/report/benchmark.html",
        title=f"Benchmark of {', '.join(labels.values())}",
        warnings=[("warning", text) for text in warnings(report)],
        tradeoff=tradeoff(report),
        models=[
            _section([row for row in report.rows if row.model == model], label)
            for model, label in labels.items()
        ],
        compared=comparison(report),
        compared_how=COMPARED,
        facts=facts(report),
        notes=notes(report),
    )


def markdown(report: Report) -> str:
    """Return the report as Markdown: tables by model, missing figures with reasons, and the setup."""
    parts = ["# Benchmark", *(f"**{warning}**" for warning in warnings(report))]
    for model, label in report.labels().items():
        rows = [row for row in report.rows if row.model == model]
        parts += [f"## {label}", f"`{model}`{_images(rows)}.", _markdown(*lines(rows, MAIN))]
        parts += [_markdown(*lines(gpu_rows, GPU))] if (gpu_rows := on_gpu(rows)) else []
        parts += [f"{line}." for line in _missing(rows)]
        parts += ["<details><summary>Load, build and first run</summary>", _markdown(*lines(rows, COST))]
        parts += ["</details>"]
    if compared := comparison(report):
        parts += ["## Models", f"{COMPARED}.", _markdown(*compared)]
    listed = [*(f"{name}: {value}" for name, value in facts(report)), *notes(report)]
    parts += ["## How", "\n".join(f"- {line}" for line in listed)]
    return "\n\n".join(parts) + "\n"


def _section(rows: Sequence[Row], label: str) -> dict[str, Any]:
    """Return the section of a model for the page."""
    found, gpu_rows = measured(rows), on_gpu(rows)
    tables = [
        ("Figures", MAIN, found),
        ("On the GPU", GPU, gpu_rows),
        ("Load, build and first run", COST, found),
    ]
    return {
        "label": label,
        "subtitle": rows[0].model + _images(rows),
        "cards": list(_cards(found)),
        "plots": model_plots(found) if found else [],
        "tables": [(title, *lines(shown, columns)) for title, columns, shown in tables if shown],
        "missing": _missing(rows),
    }


def _images(rows: Sequence[Row]) -> str:
    row = next((row for row in rows if row.imgsz), None)
    return (
        "" if row is None or row.imgsz is None else f", images of {row.data} at {row.imgsz[0]}x{row.imgsz[1]}"
    )


def _missing(rows: Sequence[Row]) -> list[str]:
    return [
        *(f"Not measured: {line}" for line in why_not(rows)),
        *(f"No mIoU: {line}" for line in why_no_miou(rows)),
    ]


def _cards(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    """Yield the best figure of each of MLPerf's scenarios."""
    if single := [row for row in rows if "SingleStream" in row.scenarios]:
        best = min(single, key=lambda row: row.end_to_end_ms.p90 if row.end_to_end_ms else 0)
        assert best.end_to_end_ms is not None
        text = f"{number(best.end_to_end_ms.p90)} ms p90, {number(best.end_to_end_ms.p50)} ms p50"
        yield _card("SingleStream: lowest latency, batch 1", best, text)
    if offline := [row for row in rows if "Offline" in row.scenarios]:
        best = max(offline, key=lambda row: throughput(row) or 0)
        title = f"Offline: highest throughput, batch {best.batch}"
        yield _card(title, best, f"{number(throughput(best))} images/s")


def _card(title: str, row: Row, text: str) -> tuple[str, ...]:
    over = [
        f"{ratio(value)} {name}"
        for name, value in (("eager", row.speedup), ("eager-amp", row.speedup_amp))
        if value is not None and row.backend != name
    ]
    accuracy = [] if row.accuracy is None else [f"mIoU {miou(row)}"]
    return title, row.name, DOT.join([text, *over, *accuracy]), color_of(row.backend)


def _markdown(head: list[str], table: list[list[str]]) -> str:
    return "\n".join(markdown_table(head, table, "--:"))
