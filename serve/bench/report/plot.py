"""A benchmark as a picture: latency, throughput and mIoU of each backend, side by side."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from zoo.predictors.backends import color_of
from zoo.serve.bench.measurement import number
from zoo.serve.bench.report.table import miou, throughput

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from zoo.serve.bench.measurement import Report, Row, Times

INK, QUIET, GRID = "#202124", "#5f6368", "#e8eaed"

WIDTH = 11.0
LINE = 0.34
"""Height in inches of a bar or a heading with the space around it."""


class Bar(NamedTuple):
    """One row of a report and where it is drawn."""

    y: float
    row: Row
    times: Times


def write_plot(report: Report, path: Path) -> None:
    """Write the picture of a report as PNG; backends without figures are named below it."""
    sections = {label: _bars(report, model) for model, label in report.labels().items()}
    sections = {label: bars for label, bars in sections.items() if bars}
    heights = [(bars[-1].y + 1) * LINE + 1.0 for bars in sections.values()]
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.6), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(len(sections), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (label, bars) in zip(parts, sections.items(), strict=True):
        size = "x".join(map(str, bars[0].row.imgsz or ()))
        part.suptitle(f"{label}  {size}", x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK)
        left, middle, right = part.subplots(1, 3, width_ratios=(1.6, 1, 0.6))
        _draw_latency(left, bars)
        _draw_throughput(middle, bars)
        _draw_miou(right, bars)
    figure.supxlabel(_caption(report), fontsize=8.5, color=QUIET, x=0.012, ha="left")
    figure.savefig(path, format="png", dpi=150)


def _bars(report: Report, model: str) -> list[Bar]:
    """Return the measured rows of a model from top to bottom, with room above each batch size."""
    bars: list[Bar] = []
    y = 0.0
    measured = [row for row in report.rows if row.model == model]
    for _, rows in groupby(measured, key=lambda row: row.batch):
        y += 1
        for row in rows:
            if row.end_to_end_ms is not None:
                bars.append(Bar(y, row, row.end_to_end_ms))
                y += 1
    return bars


def _draw_latency(axes: Axes, bars: list[Bar]) -> None:
    _prepare(axes, bars, "ms from images to masks: median, whisker to the 90th percentile")
    whiskers = [bar.times.p90 - bar.times.p50 for bar in bars]
    _fill(axes, bars, [bar.times.p50 for bar in bars], whiskers)
    for bar in bars:
        over = bar.row.speedup
        speedup = "" if over is None or over.ratio == 1 else rf"   $\bf{{{over.ratio:.2f}\times}}$"
        _annotate(axes, bar.times.p90, bar.y, f"{number(bar.times.p50)}{speedup}")


def _draw_throughput(axes: Axes, bars: list[Bar]) -> None:
    _prepare(axes, bars, "images per second")
    _fill(axes, bars, [throughput(bar.row) or 0.0 for bar in bars])
    for bar in bars:
        _annotate(axes, throughput(bar.row) or 0.0, bar.y, number(throughput(bar.row)))
    axes.set_yticklabels([])


def _draw_miou(axes: Axes, bars: list[Bar]) -> None:
    _prepare(axes, bars, "mIoU (points to eager)")
    axes.set_yticklabels([])
    axes.set_xticks([])
    axes.set_xlim(0, 1)
    axes.spines["left"].set_visible(False)
    for bar in bars:
        _annotate(axes, 0, bar.y, miou(bar.row))


def _prepare(axes: Axes, bars: list[Bar], title: str) -> None:
    """Set up an axis with a backend's name at each bar and the batch size above each group."""
    axes.set_title(title, loc="left", fontsize=9.5, color=QUIET)
    axes.set_yticks([bar.y for bar in bars], [bar.row.name for bar in bars], fontsize=10.5, color=INK)
    axes.set_ylim(bars[-1].y + 0.6, -0.1)
    for _, group in groupby(bars, key=lambda bar: bar.row.batch):
        first = next(group)
        axes.text(0, first.y - 0.68, f" batch {first.row.batch}", fontsize=9, color=QUIET, va="center")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(QUIET)
    axes.tick_params(length=0, colors=QUIET, labelsize=9)
    axes.tick_params(axis="y", labelsize=10.5, labelcolor=INK)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    axes.margins(x=0.3)


def _fill(axes: Axes, bars: list[Bar], widths: list[float], whiskers: list[float] | None = None) -> None:
    colors = [color_of(bar.row.backend) for bar in bars]
    axes.barh(
        [bar.y for bar in bars],
        widths,
        height=0.68,
        color=colors,
        xerr=None if whiskers is None else ([0.0] * len(bars), whiskers),
        ecolor=INK,
        capsize=3,
        error_kw={"elinewidth": 1},
    )
    axes.set_xlim(left=0)


def _annotate(axes: Axes, x: float, y: float, text: str) -> None:
    axes.annotate(
        text, (x, y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9.5, color=INK
    )


def _caption(report: Report) -> str:
    """Return machine, versions and what is missing, in a few lines below the picture."""
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
        lines.append("A quick look: few runs, rough figures.")
    return "\n".join(lines)
