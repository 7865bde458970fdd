"""Tables of the figures of a load test."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zoo.serve.bench.measurement import number
from zoo.serve.load.measurement import PARTS, REST, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoo.serve.bench.report.table import Lines
    from zoo.serve.load.measurement import Report


class Column(NamedTuple):
    """Column of a table: its head, and a function from a row to text."""

    head: str
    cell: Callable[[Row], str]


def lines(rows: Sequence[Row], columns: Sequence[Column]) -> Lines:
    """Return the head and lines of a table of rows."""
    return [column.head for column in columns], [[column.cell(row) for column in columns] for row in rows]


def percent(share: float) -> str:
    """Return a share in percent, rounded down, so that 100 means all.

    Example:
        >>> [percent(share) for share in (0.5, 0.9996, 1.0)]
        ['50.0%', '99.9%', '100%']
    """
    return "100%" if share == 1 else f"{int(share * 1000) / 10:.1f}%"


def overhead(report: Report) -> list[str]:
    """Return sentences about the share of the latency outside the model, as far as measured."""
    alone = report.fewest_clients
    found = []
    if report.bare is not None and alone.latency_ms is not None:
        bare, served = report.bare.end_to_end_ms.p50, alone.latency_ms.p50
        found.append(
            f"Overhead over the bare model: {alone.name} sees {number(served)} ms, the model alone takes "
            f"{number(bare)} ms (p50, {report.bare.backend}, from an image in memory to its mask): "
            f"{served - bare:+.2f} ms, {100 * (served / bare - 1):+.0f}%."
        )
    for row in (each for each in report.closed if each.parts_ms):
        mean = sum(row.parts_ms.values())
        outside = mean - row.parts_ms["compute"]
        found.append(
            f"By the server's own clock, {row.name}: {number(outside)} of {number(mean)} ms are not the "
            f"model ({percent(outside / mean)}), of which {number(row.parts_ms['queue'])} ms in the queue."
        )
    return found


def goodput(report: Report) -> str:
    """Return a sentence about the goodput; empty if it was not searched for."""
    found, bound = report.goodput, f"{report.settings.bound_ms:g} ms"
    if found is None:
        return ""
    if found.rate is None:
        lowest = "" if found.failing_rate is None else f" ({number(found.failing_rate)}/s was the lowest)"
        return f"Goodput: no tried rate{lowest} had a p99 within {bound} and no errors."
    above = "" if found.failing_rate is None else f"; {number(found.failing_rate)}/s did not"
    return (
        f"Goodput: {number(found.rate)} requests/s at random times, of which none fails and 99 % take at "
        f"most {bound}{above}."
    )


def _ms(statistic: str) -> Column:
    return Column(f"{statistic} ms", lambda row: number(getattr(row.latency_ms, statistic, None)))


def _part(name: str) -> Column:
    return Column(f"{name} ms", lambda row: number(row.parts_ms.get(name)))


def kinds(row: Row) -> str:
    """Return the number of failed requests of each status or kind."""
    return ", ".join(f"{count} x {kind}" for kind, count in row.errors.items()) or "0"


CLIENTS = Column("load", lambda row: row.name)
RATE = Column("arrivals", lambda row: row.name)
FIGURES = (
    Column("answered/s", lambda row: number(row.answered_per_s)),
    _ms("p50"),
    _ms("p90"),
    _ms("p99"),
    Column("in time", lambda row: percent(row.in_time)),
    Column("requests", lambda row: str(row.requests)),
    Column("errors", kinds),
)
CLOSED = (CLIENTS, *FIGURES)
OPEN = (
    RATE,
    *FIGURES,
    Column("tried for", lambda row: "the bound" if row.searched else "the curve"),
)
SPENT = (CLIENTS, *map(_part, (*PARTS, REST)))
"""Columns of the time of a request by part."""
COST = (
    CLIENTS,
    Column("seconds", lambda row: number(row.seconds)),
    Column("sent MB", lambda row: number(row.sent_bytes / 1e6)),
    Column("received MB", lambda row: number(row.received_bytes / 1e6)),
    Column("connections", lambda row: str(row.connections)),
    Column("client CPU", lambda row: f"{100 * row.client_cpu:.0f}%"),
    Column("sent late, p99 ms", lambda row: number(row.late_ms)),
)
"""Columns about the client."""
