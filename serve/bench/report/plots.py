"""Plots of a benchmark: latency, throughput and mIoU of each backend."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from matplotlib.layout_engine import ConstrainedLayoutEngine

from zoo.pages.plots import (
    BAR,
    INK,
    LIGHT,
    PAPER,
    QUIET,
    Bar,
    draw_bars,
    finish,
    label,
    logarithmic,
    new_figure,
    svg,
    write_png,
)
from zoo.predictors.backends import color_of
from zoo.serve.bench.measurement import Times, number
from zoo.serve.bench.report.table import measured, miou, throughput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from markupsafe import Markup
    from matplotlib.axes import Axes

    from zoo.serve.bench.measurement import Report, Row

LATENCY = "ms, end to end: solid to p50, light to p90, thin to p99"
THROUGHPUT = "images/s"
CARD_WIDTH = 11.0
LEAST_MIOU = 0.04
"""Minimum range of an mIoU axis, so that chance does not look large."""

Rows = list[tuple[float, "Row"]]
"""Rows and their vertical positions, from top to bottom."""


def ends_of(times: Times) -> tuple[float, ...]:
    """Return the end of each part of a latency bar."""
    return (times.p50, times.p90, *(() if times.p99 is None else (times.p99,)))


def model_plots(rows: Sequence[Row]) -> list[Markup]:
    """Return latency and throughput of a model's backends as plots of a page."""
    placed, drawn = _placed(rows), []
    for draw in (_draw_latency, _draw_throughput):
        figure = new_figure(BAR * (placed[-1][0] + 1) + 0.6)
        draw(figure.subplots(), placed)
        drawn.append(svg(figure))
    return drawn


def tradeoff(report: Report) -> Markup | None:
    """Return latency against mIoU of all models at the smallest batch as a plot, None without mIoU."""
    labels = report.labels()
    rows = [row for row in measured(report.rows) if row.accuracy and row.accuracy.miou is not None]
    smallest = min((row.batch or 0 for row in rows), default=0)
    points = [
        (
            row.end_to_end_ms.p50,
            row.accuracy.miou,
            row.name if len(labels) == 1 else f"{row.name} {labels[row.model]}",
            LIGHT[color_of(row.backend)],
        )
        for row in rows
        if row.batch == smallest and row.end_to_end_ms and row.accuracy and row.accuracy.miou is not None
    ]
    if not points:
        return None
    figure = new_figure(3.4)
    axes = figure.subplots()
    x, y, _, colors = zip(*points, strict=True)
    axes.scatter(x, y, s=30, color=colors)
    axes.set_xlabel(f"p50 of batch {smallest} in ms, logarithmic")
    axes.margins(0.1)
    finish(axes, "mIoU")
    logarithmic(axes, "x")
    middle, least = (min(y) + max(y)) / 2, 0.6 * max(LEAST_MIOU, max(y) - min(y))
    axes.set_ylim(middle - least, middle + least)
    label(figure, axes, [point[:3] for point in points])
    return svg(figure)


def write_plot(report: Report, path: Path) -> None:
    """Write the plots of a report side by side as PNG, with the backends without figures named below."""
    rows = {
        text: _placed([row for row in report.rows if row.model == key])
        for key, text in report.labels().items()
    }
    rows = {text: placed for text, placed in rows.items() if placed}
    heights = [(placed[-1][0] + 1) * 0.34 + 1.0 for placed in rows.values()]
    figure = new_figure(sum(heights) + 0.6, CARD_WIDTH)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (text, placed) in zip(parts, rows.items(), strict=True):
        size = "x".join(map(str, placed[0][1].imgsz or ()))
        part.set_facecolor(PAPER)
        part.suptitle(f"{text}  {size}", x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK)
        left, middle, right = part.subplots(1, 3, width_ratios=(1.6, 1, 0.6))
        _draw_latency(left, placed)
        _draw_throughput(middle, placed)
        middle.set_yticklabels([])
        _draw_miou(right, placed)
    figure.supxlabel(_caption(report), fontsize=8.5, color=QUIET, x=0.012, ha="left")
    write_png(figure, path)


def _placed(rows: Sequence[Row]) -> Rows:
    """Return the measured rows with their positions, leaving room for a heading above each batch size."""
    places: Rows = []
    for _, group in groupby(measured(rows), key=lambda row: row.batch):
        start = places[-1][0] + 2 if places else 1
        places += [(start + index, row) for index, row in enumerate(group)]
    return places


def _draw_latency(axes: Axes, rows: Rows) -> None:
    bars = []
    for y, row in rows:
        assert row.end_to_end_ms
        times = row.end_to_end_ms
        over = row.speedup
        speedup = "" if over is None or over.ratio == 1 else f"{over.ratio:.2f}\N{MULTIPLICATION SIGN}"
        color = LIGHT[color_of(row.backend)]
        bars.append(Bar(y, row.name, color, ends_of(times), number(times.p50), speedup))
    draw_bars(axes, bars, LATENCY)
    _head(axes, rows)


def _draw_throughput(axes: Axes, rows: Rows) -> None:
    rates = [(y, row, throughput(row) or 0.0) for y, row in rows]
    bars = [Bar(y, row.name, LIGHT[color_of(row.backend)], (rate,), number(rate)) for y, row, rate in rates]
    draw_bars(axes, bars, THROUGHPUT)
    _head(axes, rows)


def _draw_miou(axes: Axes, rows: Rows) -> None:
    draw_bars(axes, [Bar(y, "", QUIET, (0,), miou(row)) for y, row in rows], "mIoU (points to eager)")
    axes.set_xticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    _head(axes, rows)


def _head(axes: Axes, rows: Rows) -> None:
    """Draw the batch size above each group of bars."""
    for batch, group in groupby(rows, key=lambda entry: entry[1].batch):
        axes.text(0, next(group)[0] - 0.75, f" batch {batch}", fontsize=9, color=QUIET, va="center")
    axes.set_ylim(top=-0.1)


def _caption(report: Report) -> str:
    """Return the caption: machine, versions and missing backends."""
    settings = report.settings
    where = (report.machine["gpu"] or {}).get(
        "name"
    ) or f"{report.machine['cpu']}, threads: {settings.threads}"
    runtimes = [
        f"{name} {version}" for name, version in report.versions.items() if version and name != "python"
    ]
    lines = [f"{where}  ·  {'  ·  '.join(runtimes)}  ·  {report.timestamp[:10]}"]
    missing = dict.fromkeys(row.name for row in report.rows if row.end_to_end_ms is None)
    if missing:
        lines.append(f"Not measured: {', '.join(missing)}; benchmark.md says why.")
    if settings.quick:
        lines.append("Rough figures from few runs (--quick).")
    return "\n".join(lines)
