"""Report of a load test as an HTML page and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.bundle.bundle import write_json, write_text
from zoo.pages.html import render
from zoo.pages.plots import BAR, LIGHT, Bar, bars, finish, legend, logarithmic, new_figure, svg
from zoo.serve.bench.measurement import number
from zoo.serve.bench.report.page import DOT
from zoo.serve.bench.report.plots import LATENCY, ends_of
from zoo.serve.load.measurement import PARTS, REST
from zoo.serve.load.reading import READING, facts, warnings
from zoo.serve.load.table import CLOSED, COST, OPEN, SPENT, goodput, kinds, lines, overhead, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from markupsafe import Markup

    from zoo.serve.load.measurement import Report, Row

STATISTICS = {"p50": "teal", "p90": "orange", "p99": "purple"}
PART_COLORS = dict(zip((*PARTS, REST), ("blue", "orange", "teal", "purple", "gray"), strict=True))

NAMES = ("load.html", "load.json")


def _kept(row: Row) -> float:
    """Return the share of the successful responses within the bound."""
    good = row.requests - row.failed
    return row.in_time * row.requests / good if good else 0.0


SERVED: dict[str, tuple[str, Callable[[Row], float]]] = {
    "answered": ("teal", lambda _: 1.0),
    "in time": ("blue", _kept),
}
"""Color and share of the responses for each line of a plot."""


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write a report as page and JSON, each atomically, and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = (folder / name for name in NAMES)
    write_json(data, report.model_dump(mode="json"))
    write_text(page, html(report))
    return [page, data]


def html(report: Report) -> str:
    """Return the whole report as one page."""
    server, closed = report.server, report.closed
    spent = [row for row in closed if row.parts_ms]
    loads = [row for row in report.rows if not row.searched]  # searched rates end at their first error
    return render(
        "serve/load/load.html",
        title=f"Load test of {server.model}",
        warnings=[("warning", text) for text in warnings(report)],
        subtitle=DOT.join(filter(None, (server.url, server.description or server.backend, server.images))),
        summary=list(_cards(report)),
        closed={
            "plots": [*_latencies(closed), *_rates(closed), *_stacks(spent)],
            "figures": lines(closed, CLOSED),
            "overhead": overhead(report),
            "spent": lines(spent, SPENT),
        },
        arrivals={
            "plots": [*_latency_curves(report), *_served_curves(report)],
            "goodput": goodput(report),
            "figures": lines(report.open, OPEN),
        },
        errors=list(_errors(loads)),
        sent=sum(row.requests for row in loads),
        work=lines(report.rows, COST),
        facts=facts(report),
        notes=READING,
    )


def _cards(report: Report) -> Iterator[tuple[str, ...]]:
    """Yield the title, figure, remark and color of each card."""
    best, first = max(report.closed, key=lambda row: row.answered_per_s), report.fewest_clients
    if report.goodput is not None:
        rate = report.goodput.rate
        figure = "none" if rate is None else f"{number(rate)}/s"
        bound = f"p99 within {report.settings.bound_ms:g} ms, no errors"
        yield "Goodput, open loop", figure, bound, "blue"
    yield "Throughput, closed loop", f"{number(best.answered_per_s)}/s", best.name, "teal"
    if times := first.latency_ms:
        p99 = "" if times.p99 is None else f", p99 {number(times.p99)}"
        yield (
            f"Latency, {first.name}",
            f"{number(times.p50)} ms",
            f"p50; p90 {number(times.p90)}{p99}",
            "teal",
        )
    if first.parts_ms:
        whole = sum(first.parts_ms.values())
        share = 1 - first.parts_ms["compute"] / whole
        yield (
            "Not the model",
            percent(share),
            f"{number(share * whole)} of {number(whole)} ms, {first.name}",
            "orange",
        )


def _latencies(rows: Sequence[Row]) -> Iterator[Markup]:
    found = [(row.name, row.latency_ms) for row in rows if row.latency_ms]
    if found:
        entries = [
            Bar(y, name, LIGHT["teal"], ends_of(times), number(times.p50))
            for y, (name, times) in enumerate(found)
        ]
        yield bars(entries, f"Latency: {LATENCY}")


def _rates(rows: Sequence[Row]) -> Iterator[Markup]:
    if any(row.answered_per_s for row in rows):
        rates = [(row.name, row.answered_per_s) for row in rows]
        entries = [Bar(y, name, LIGHT["teal"], (rate,), number(rate)) for y, (name, rate) in enumerate(rates)]
        yield bars(entries, "Responses per second")


def _errors(rows: Sequence[Row]) -> Iterator[Markup]:
    """Yield the share of failed requests of each load, if any failed."""
    failed = [row for row in rows if row.failed]
    if failed:
        entries = [
            Bar(y, row.name, LIGHT["red"], (100 * share,), f"{percent(share)}: {kinds(row)}")
            for y, (row, share) in enumerate((row, row.failed / row.requests) for row in failed)
        ]
        yield bars(entries, "Failed requests, %")


def _stacks(rows: Sequence[Row]) -> Iterator[Markup]:
    """Yield the mean latency of each row as stacked parts, on one scale."""
    if not rows:
        return
    figure = new_figure(BAR * len(rows) + 1.1)
    axes = figure.subplots()
    starts = [0.0] * len(rows)
    for part, color in PART_COLORS.items():
        lengths = [max(row.parts_ms[part], 0.0) for row in rows]
        axes.barh(range(len(rows)), lengths, 0.7, left=starts, color=LIGHT[color], label=part)
        starts = [start + length for start, length in zip(starts, lengths, strict=True)]
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    finish(axes, "Where the time goes: ms, mean")
    axes.grid(axis="y", visible=False)
    legend(axes)
    yield svg(figure)


def plotted(report: Report) -> list[Row]:
    """Return a row for each rate that ran to the end, by rate."""
    whole = [row for row in report.open if row.holds or not row.searched]
    rows = {row.rate: row for row in sorted(whole, key=lambda row: row.searched)}
    return sorted(rows.values(), key=lambda row: row.rate or 0)


def _latency_curves(report: Report) -> Iterator[Markup]:
    bound = report.settings.bound_ms
    rows = plotted(report)
    found = {name: [(row.rate, getattr(row.latency_ms, name, None)) for row in rows] for name in STATISTICS}
    curves = {
        name: (STATISTICS[name], [(x, y) for x, y in points if y is not None])
        for name, points in found.items()
    }
    if any(points for _, points in curves.values()):
        yield _curves("Latency against arrivals: ms, logarithmic", curves, bound)


def _served_curves(report: Report) -> Iterator[Markup]:
    rows = plotted(report)
    curves = {
        name: (color, [(row.rate, row.answered_per_s * share(row)) for row in rows])
        for name, (color, share) in SERVED.items()
    }
    if rows:
        yield _curves("Answers against arrivals: answers/s", curves)


def _curves(title: str, curves: Mapping[str, tuple[str, list[Any]]], bound: float | None = None) -> Markup:
    """Return figures against arrivals; with a bound, on a logarithmic axis with a line at the bound."""
    figure = new_figure(2.8)
    axes = figure.subplots()
    for name, (color, points) in curves.items():
        if points:
            axes.plot(*zip(*points, strict=True), "o-", markersize=4, color=LIGHT[color], label=name)
    axes.set(xlim=(0, None), xlabel="arrivals/s")
    finish(axes, title)
    if bound is None:
        axes.set_ylim(0, 1.08 * axes.dataLim.y1 or 1)
    else:
        axes.axhline(bound, color=LIGHT["red"], linestyle="--", label=f"bound: {bound:g} ms")
        logarithmic(axes, "y")
    legend(axes)
    return svg(figure)
