"""A load test as one HTML page that needs nothing else: no other file, no host, no script."""

from __future__ import annotations

from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING

from zoo.bundle.bundle import replacing, write_json
from zoo.pages.axes import axis_from_zero, logarithmic_axis
from zoo.pages.html import bullets, definitions, table
from zoo.serve.bench.measurement import number
from zoo.serve.bench.report.charts import Bar, Point, bars, curves, percentile_bar
from zoo.serve.bench.report.page import DOT, PAGE, RIGHT, UP, palette
from zoo.serve.load.measurement import PARTS, REST
from zoo.serve.load.reading import READING, facts, warnings
from zoo.serve.load.table import CLOSED, COST, OPEN, SPENT, goodput, lines, overhead, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from zoo.serve.load.measurement import Report, Row


STATISTICS = ("p50", "p90", "p99")


def _kept(row: Row) -> float:
    """Return the share of the good answers that kept the bound."""
    good = row.requests - row.failed
    return row.in_time * row.requests / good if good else 0.0


SERVED: dict[str, Callable[[Row], float]] = {"answered": lambda _: 1.0, "in-time": _kept}
"""Share of the answers that each line of the plot shows."""


def html(report: Report) -> str:
    """Return the whole report as one page."""
    page = Template((resources.files("zoo.serve.bench.report") / PAGE).read_text(encoding="utf-8"))
    server = report.server
    return page.substitute(
        palette(),
        title=escape(f"Load test of {server.model}"),
        warnings="".join(f'<p class="warning">{escape(text)}</p>' for text in warnings(report)),
        tradeoff=_summary(report),
        models=_clients(report) + _arrivals(report),
        comparison=_errors(report) + _work(report),
        facts=definitions(facts(report)),
        notes=bullets(READING),
    )


def _summary(report: Report) -> str:
    """Return what the test came to, as cards."""
    server, bound = report.server, f"p99 within {report.settings.bound_ms:g} ms, no errors"
    best = max(report.closed, key=lambda row: row.answered_per_s)
    first = report.fewest_clients
    cards = [
        _card("answered", "Throughput, clients that wait", f"{number(best.answered_per_s)}/s", best.name),
    ]
    if report.goodput is not None:
        rate = report.goodput.rate
        figure = "none" if rate is None else f"{number(rate)}/s"
        cards.insert(0, _card("in-time", "Goodput, arrivals at random", figure, bound))
    if first.latency_ms is not None:
        times = first.latency_ms
        cards.append(_card("p50", f"Latency, {first.name}", f"{number(times.p50)} ms", _tail(first)))
    if first.parts_ms:
        whole = sum(first.parts_ms.values())
        share = 1 - first.parts_ms["compute"] / whole
        text = f"{number(share * whole)} of {number(whole)} ms, {first.name}"
        cards.append(_card("queue", "Not the model", percent(share), text))
    subtitle = DOT.join(filter(None, (server.url, server.description or server.backend, server.images)))
    return f'<p class="subtitle">{escape(subtitle)}</p><div class="cards">{"".join(cards)}</div>'


def _tail(row: Row) -> str:
    times = row.latency_ms
    assert times is not None
    p99 = "" if times.p99 is None else f", p99 {number(times.p99)}"
    return f"p50; p90 {number(times.p90)}{p99}"


def _card(style: str, title: str, figure: str, text: str) -> str:
    return (
        f'<div class="card {style}"><h4>{escape(title)}</h4><b>{escape(figure)}</b>'
        f"<span>{escape(text)}</span></div>"
    )


def _clients(report: Report) -> str:
    """Return the section of the closed loop."""
    rows = report.closed
    latencies = [percentile_bar(row.name, "p50", row.latency_ms) for row in rows if row.latency_ms]
    rates = [
        Bar(row.name, "answered", (row.answered_per_s,), number(row.answered_per_s), " /s", row.name)
        for row in rows
    ]
    plots = [f"<h3>Latency</h3>{bars(latencies)}" if latencies else ""]
    plots += [f"<h3>Answers a second</h3>{bars(rates)}" if any(row.answered_per_s for row in rows) else ""]
    hint = (
        "Each client sends its next request when it has the answer. "
        "Latency in ms: solid to the median, light to p90, thin to p99 if there are enough requests."
    )
    spent = [row for row in rows if row.parts_ms]
    return "".join(
        [
            f'<section><h2>Clients that wait</h2><p class="hint">{hint}</p>',
            f'<div class="charts">{"".join(f"<div>{plot}</div>" for plot in plots)}</div>',
            table(*lines(rows, CLOSED)),
            f"<h3>Where the time goes</h3>{_legend()}{_stacks(spent)}" if spent else "",
            bullets(overhead(report)),
            f"<details><summary>Means in ms</summary>{table(*lines(spent, SPENT))}</details>"
            if spent
            else "",
            "</section>",
        ]
    )


def _legend() -> str:
    entries = (f'<span class="{part}"><i></i>{part}</span>' for part in (*PARTS, REST))
    return f'<p class="legend">{"".join(entries)}</p>'


def _stacks(rows: Sequence[Row]) -> str:
    """Return the mean latency of each row, part behind part, all to one scale."""
    longest = max(sum(row.parts_ms.values()) for row in rows)
    return f'<div class="bars" style="--value:9ch">{"".join(_stack(row, longest) for row in rows)}</div>'


def _stack(row: Row, longest: float) -> str:
    parts, start = [], 0.0
    for part in (*PARTS, REST):
        milliseconds = max(row.parts_ms[part], 0.0)
        parts.append(
            f'<i class="{part}" title="{part} {number(milliseconds)} ms" '
            f'style="left:{start / longest:.2%};width:{milliseconds / longest:.2%}"></i>'
        )
        start += milliseconds
    return (
        f'<div class="bar"><span>{row.name}</span><span class="track">{"".join(parts)}</span>'
        f'<span class="value"><b>{number(sum(row.parts_ms.values()))}</b> ms</span></div>'
    )


def _arrivals(report: Report) -> str:
    """Return the section of the open loop."""
    whole = [row for row in report.open if row.holds or not row.searched]  # the others were left early
    rows = list({row.rate: row for row in sorted(whole, key=lambda row: row.searched)}.values())
    rows.sort(key=lambda row: row.rate or 0)
    hint = "Requests arrive whether or not earlier ones were answered; latency counts from when each was due."
    plots = f"<div>{_latency_plot(report, rows)}</div><div>{_served_plot(rows)}</div>" if rows else ""
    return (
        f'<section><h2>Arrivals at random times</h2><p class="hint">{hint}</p>'
        f'<div class="charts">{plots}</div><p>{escape(goodput(report))}</p>'
        f"{table(*lines(report.open, OPEN))}</section>"
    )


def _latency_plot(report: Report, rows: Sequence[Row]) -> str:
    bound = report.settings.bound_ms
    series = [points for statistic in STATISTICS if (points := list(_points(rows, statistic)))]
    if not series:
        return ""
    x = axis_from_zero([row.rate or 0 for row in rows])
    y = logarithmic_axis([bound, *(point.y for points in series for point in points)])
    title = f"bound: {bound:g} ms"
    limit = [Point(place, bound, f"{bound:g} ms", "bound", title) for place in (x.low, x.high)]
    titles = f"arrivals/s {RIGHT}", f"{UP} ms, logarithmic"
    return f"<h3>Latency against arrivals</h3>{curves([*series, limit], x, y, titles)}"


def _points(rows: Sequence[Row], statistic: str) -> Iterator[Point]:
    for row in rows:
        milliseconds = getattr(row.latency_ms, statistic, None)
        if milliseconds is not None:
            title = f"{row.name}: {statistic} {number(milliseconds)} ms"
            yield Point(row.rate or 0, milliseconds, statistic, statistic, title)


def _served_plot(rows: Sequence[Row]) -> str:
    series = [
        [
            Point(row.rate or 0, rate, name.replace("-", " "), name, f"{row.name}: {number(rate)}/s {name}")
            for row, rate in ((row, row.answered_per_s * share(row)) for row in rows)
        ]
        for name, share in SERVED.items()
    ]
    largest = [row.rate or 0 for row in rows]
    x, y = axis_from_zero(largest), axis_from_zero([*largest, *(point.y for point in series[0])])
    titles = f"arrivals/s {RIGHT}", f"{UP} answers/s"
    return f"<h3>Answers against arrivals</h3>{curves(series, x, y, titles)}"


def _errors(report: Report) -> str:
    """Return how many requests of each load failed, and how; a sentence where none did.

    A rate that was tried for the bound ends with its first error: its share says nothing.
    """
    loads = [row for row in report.rows if not row.searched]
    rows = [row for row in loads if row.failed]
    if not rows:
        sent = sum(row.requests for row in loads)
        return (
            f"<section><h2>Errors</h2><p>None of {sent} requests failed, the search left out.</p></section>"
        )
    kinds = [
        Bar(
            f"{row.name}",
            "failed",
            (100 * row.failed / row.requests,),
            percent(row.failed / row.requests),
            f" {text}",
            text,
        )
        for row in rows
        for text in [", ".join(f"{count} x {kind}" for kind, count in row.errors.items())]
    ]
    hint = "Share of the requests that failed, by status or kind."
    return f'<section><h2>Errors</h2><p class="hint">{hint}</p>{bars(kinds)}</section>'


def _work(report: Report) -> str:
    cost = table(*lines(report.rows, COST))
    return (
        f"<section><h2>What the client did</h2><details><summary>Figures</summary>{cost}</details></section>"
    )


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write a report as page and JSON and return the paths; none is ever half written."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / "load.html", folder / "load.json"
    write_json(data, report.model_dump(mode="json"))
    with replacing(page) as temporary:
        temporary.write_text(html(report), encoding="utf-8")
    return [page, data]
