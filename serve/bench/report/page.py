"""A benchmark as one HTML page that needs nothing else: no other file, no host, no script."""

from __future__ import annotations

from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING

from zoo.pages.axes import axis_from_zero, linear_axis, logarithmic_axis
from zoo.pages.html import bullets, definitions, table
from zoo.predictors.backends import BACKENDS
from zoo.serve.bench.measurement import number
from zoo.serve.bench.report.charts import Bar, Point, bars, curves, percentile_bar, scatter
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
    from collections.abc import Sequence

    from zoo.serve.bench.measurement import Report, Row

PAGE = "benchmark.html"
DOT, RIGHT, UP = " \N{MIDDLE DOT} ", "\N{RIGHTWARDS ARROW}", "\N{UPWARDS ARROW}"
LEAST_MIOU = 0.04
"""An axis of mIoU is at least so long, so that chance does not look large."""


def palette() -> dict[str, str]:
    """Return the parts of the page's style that give each backend its colors."""
    return {
        "light": "; ".join(f"--{name}: {row.colors[0]}" for name, row in BACKENDS.items()),
        "dark": "; ".join(f"--{name}: {row.colors[1]}" for name, row in BACKENDS.items()),
        "backends": " ".join(f".{name} {{ --c: var(--{name}) }}" for name in BACKENDS),
    }


def html(report: Report) -> str:
    """Return the whole report as one page."""
    page = Template((resources.files("zoo.serve.bench.report") / PAGE).read_text(encoding="utf-8"))
    labels = report.labels()
    compared = comparison(report)
    return page.substitute(
        palette(),
        title=escape(f"Benchmark of {', '.join(labels.values())}"),
        warnings="".join(f'<p class="warning">{escape(text)}</p>' for text in warnings(report)),
        tradeoff=_tradeoff(report),
        models="".join(
            _model([row for row in report.rows if row.model == model], label)
            for model, label in labels.items()
        ),
        comparison=f"<h2>Models</h2><p>{escape(COMPARED)}.</p>{table(*compared)}" if compared else "",
        facts=definitions(facts(report)),
        notes=bullets(notes(report)),
    )


def _tradeoff(report: Report) -> str:
    """Return the plot of latency against mIoU of all models at the smallest batch, empty without mIoU."""
    labels = report.labels()
    rows = [row for row in measured(report.rows) if row.accuracy and row.accuracy.miou is not None]
    smallest = min((row.batch or 0 for row in rows), default=0)
    points = []
    for row in rows:
        assert row.accuracy
        assert row.accuracy.miou is not None
        assert row.end_to_end_ms
        if row.batch == smallest:
            label = row.name if len(labels) == 1 else f"{row.name} {labels[row.model]}"
            title = f"{label}: {number(row.end_to_end_ms.p50)} ms, mIoU {miou(row)}"
            points.append(Point(row.end_to_end_ms.p50, row.accuracy.miou, label, row.backend, title))
    if not points:
        return ""
    plot = scatter(
        points,
        logarithmic_axis([point.x for point in points]),
        linear_axis([point.y for point in points], LEAST_MIOU),
        (f"p50 of batch {smallest} in ms, logarithmic {RIGHT}", f"{UP} mIoU"),
    )
    hint = "Up is better, left is faster. The mIoU is that of the very file that was timed."
    return f'<section><h2>Latency against mIoU</h2><p class="hint">{hint}</p>{plot}</section>'


def _model(rows: Sequence[Row], label: str) -> str:
    """Return the section of a model."""
    found = measured(rows)
    missing = [f"Not measured: {line}" for line in why_not(rows)]
    missing += [f"No mIoU: {line}" for line in why_no_miou(rows)]
    gpu_rows = on_gpu(rows)
    parts = [
        f"<section><h2>{escape(label)}</h2>{_subtitle(rows)}",
        _cards(found) + _charts(found) if found else "",
        "<h3>Figures</h3>" + table(*lines(rows, MAIN)) if found else "",
        "<h3>On the GPU</h3>" + table(*lines(gpu_rows, GPU)) if gpu_rows else "",
        "<h3>Load, build and first run</h3>" + table(*lines(rows, COST)) if found else "",
        f'<div class="missing">{bullets(missing)}</div>' if missing else "",
        "</section>",
    ]
    return "".join(parts)


def _subtitle(rows: Sequence[Row]) -> str:
    row = next((row for row in rows if row.imgsz), rows[0])
    size = "" if row.imgsz is None else f", images of {row.data} at {row.imgsz[0]} x {row.imgsz[1]}"
    return f'<p class="subtitle">{escape(row.model + size)}</p>'


def _cards(rows: Sequence[Row]) -> str:
    """Return the best figure of each of MLPerf's scenarios."""
    single = [row for row in rows if "SingleStream" in row.scenarios]
    offline = [row for row in rows if "Offline" in row.scenarios]
    cards = []
    if single:
        best = min(single, key=lambda row: row.end_to_end_ms.p90 if row.end_to_end_ms else 0)
        assert best.end_to_end_ms is not None
        text = f"{number(best.end_to_end_ms.p90)} ms p90, {number(best.end_to_end_ms.p50)} ms p50"
        cards.append(_card("SingleStream: lowest latency, batch 1", best, text))
    if offline:
        best = max(offline, key=lambda row: throughput(row) or 0)
        text = f"{number(throughput(best))} images/s"
        cards.append(_card(f"Offline: highest throughput, batch {best.batch}", best, text))
    return f'<div class="cards">{"".join(cards)}</div>'


def _card(title: str, row: Row, text: str) -> str:
    over = [
        f"{ratio(value)} {name}"
        for name, value in (("eager", row.speedup), ("eager-amp", row.speedup_amp))
        if value is not None and row.backend != name
    ]
    accuracy = [] if row.accuracy is None else [f"mIoU {miou(row)}"]
    return (
        f'<div class="card {escape(row.backend)}"><h4>{escape(title)}</h4><b>{escape(row.name)}</b>'
        f"<span>{escape(DOT.join([text, *over, *accuracy]))}</span></div>"
    )


def _charts(rows: Sequence[Row]) -> str:
    """Return the plots of a model, side by side where there is room."""
    hint = (
        "Latency end to end in ms: solid to the median, light to p90, thin to p99 if there are enough runs."
    )
    plots = "".join(f"<div>{plot}</div>" for plot in (*_latencies(rows), _throughputs(rows)))
    return f'<p class="hint">{hint}</p><div class="charts">{plots}</div>'


def _latencies(rows: Sequence[Row]) -> list[str]:
    """Return the percentiles of each backend, a plot for each batch size."""
    groups = []
    for batch in dict.fromkeys(row.batch for row in rows):
        group = [
            percentile_bar(row.name, row.backend, row.end_to_end_ms)
            for row in rows
            if row.batch == batch and row.end_to_end_ms
        ]
        groups.append(f"<h3>Latency, batch {batch}</h3>{bars(group)}")
    return groups


def _throughputs(rows: Sequence[Row]) -> str:
    """Return the images per second by batch size: lines, or bars of a single size."""
    batches = sorted({row.batch or 0 for row in rows})
    if len(batches) == 1:
        found = [(row, throughput(row) or 0.0) for row in rows]
        drawn = bars(
            [
                Bar(
                    row.name,
                    row.backend,
                    (rate,),
                    number(rate),
                    " images/s",
                    f"{row.name}: {rate:.1f}",
                )
                for row, rate in found
            ]
        )
        return f"<h3>Throughput, batch {batches[0]}</h3>{drawn}"
    series: dict[str, list[Point]] = {}
    for row in sorted(rows, key=lambda row: row.batch or 0):
        rate = throughput(row) or 0.0
        title = f"{row.name}, batch {row.batch}: {number(rate)} images/s"
        series.setdefault(row.name, []).append(Point(row.batch or 0, rate, row.name, row.backend, title))
    rates = [point.y for points in series.values() for point in points]
    x = logarithmic_axis(batches)._replace(ticks=tuple(map(float, batches)))
    titles = f"images in a batch, logarithmic {RIGHT}", f"{UP} images/s"
    plot = curves(list(series.values()), x, axis_from_zero(rates), titles)
    return f"<h3>Throughput by batch size</h3>{plot}"
