"""Explanations for readers of a load test: server, client, load, meaning of the figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.serve.bench.measurement import number
from zoo.serve.bench.timing import ROUNDS, RUNS_FOR_P99
from zoo.serve.load.loops import MAX_CONNECTIONS
from zoo.serve.load.run import PRECISION, RATE_ROUNDS, TRIES, WARM_UP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.serve.load.measurement import Bare, Report, Row

BUSY_CLIENT = 0.8
"""Share of a core above which the client may be the limit."""
BUSY_MACHINE = 0.5
"""Share of the cores used by other work above which a report warns."""
LATE = 0.1
"""Delay of sending, as a share of the p90 latency, above which a report warns."""

NAMED = 3
"""Maximum number of loads that a warning names."""

QUICK = "Rough figures from few requests (--quick). Measure again without --quick to rely on them."
READING = (
    "Latency: from sending a request to the last byte of its answer, by the client's clock, over connections "
    "that stay open.\n"
    "Closed loop: each client sends its next request when it has the response to the last.\n"
    "Open loop: arrivals form a Poisson process; latency counts from the due time of a request, so that "
    "every request that arrives during a stall shows it (no coordinated omission).\n"
    f"Clients took turns in {ROUNDS} rounds, rates in {RATE_ROUNDS}, after a warm-up of at least "
    f"{WARM_UP.seconds:g} s; a round of clients counts once each has had its first response.\n"
    f"No outlier is removed, and no request is retried; p99 needs {RUNS_FOR_P99} requests. Percentiles are "
    "those of successful responses; the column of errors counts the others.\n"
    "In time: share of all requests that were answered successfully within the bound.\n"
    f"Goodput: the highest rate of arrivals at which no request fails and 99 % are answered within the bound "
    f"(MLPerf's Server scenario), by bisection to {PRECISION:.0%}. A rate fails after "
    f"{TRIES} failed tries; a try that cannot succeed any more ends early.\n"
    "Queue, compute, decode, encode: by the server's own clock (Server-Timing); compute is that of the whole "
    "batch of an image. Rest: HTTP on both sides, network, client."
).split("\n")


def warnings(report: Report) -> list[str]:
    """Return warnings about the figures."""
    rows, machine, first = report.rows, report.machine, report.fewest_clients.latency_ms
    found = [QUICK] if report.settings.quick else []
    if machine["load"] is not None and machine["load"] > BUSY_MACHINE * machine["cores"]:
        found.append(
            f"The client's machine was busy before the test (load average {machine['load']:g} on "
            f"{machine['cores']} cores)."
        )
    if busy := [row for row in rows if row.client_cpu >= BUSY_CLIENT]:
        most = max(row.client_cpu for row in busy)
        found.append(
            f"The client was busy ({100 * most:.0f}% of a core) with {_names(busy)}: it may be the limit; "
            f"run several clients, or use a faster machine."
        )
    if late := [row for row in rows if _is_late(row)]:
        found.append(
            f"Requests were sent late (p99 {number(max(row.late_ms or 0 for row in late))} ms) at "
            f"{_names(late)}: their latencies include time of the client."
        )
    if full := [row for row in rows if row.loop == "open" and row.connections >= MAX_CONNECTIONS]:
        found.append(f"All {MAX_CONNECTIONS} connections were busy at {_names(full)}: arrivals had to wait.")
    if report.bare and first and report.bare.end_to_end_ms.p50 > first.p50:
        found.append(
            "The bare model was slower than the server: other work slowed it, or its threads or device "
            "differ from the server's."
        )
    if failed := [row for row in report.closed if row.failed]:
        found.append(f"Requests failed with {_names(failed)}: see the table of errors.")
    return found


def facts(report: Report) -> list[tuple[str, str]]:
    """Return the facts of the test by name: target, machines, settings."""
    server, settings, machine = report.server, report.settings, report.machine
    version = f", version {server.version}" if server.version else ""
    runs = [text for text in (server.description or server.backend, server.reason) if text]
    routes = {"predict": "/predict, image in, PNG mask out", "oip": "Open Inference Protocol, binary tensors"}
    return [
        ("server", f"{server.url}, model {server.model}{version}"),
        *([("runs on", ", ".join(runs))] if runs else []),
        ("route", routes[settings.route]),
        ("images", f"{server.images}, {number(server.request_bytes / 1e3)} kB per request"),
        ("bound", f"p99 of {settings.bound_ms:g} ms, no errors"),
        ("effort", f"at least {settings.seconds:g} s and {settings.requests} requests for each load"),
        *([_bare(report.bare, settings.threads)] if report.bare else []),
        ("client", f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}"),
        ("load average", f"{machine['load']} before, {machine['load_after']} after"),
        ("versions", ", ".join(f"{name} {text}" for name, text in report.versions.items() if text)),
        ("begun", report.timestamp),
        ("command", report.command),
    ]


def _bare(bare: Bare, threads: int) -> tuple[str, str]:
    return "bare model", f"{bare.path}, {bare.description}, threads: {threads}"


def _is_late(row: Row) -> bool:
    return row.late_ms is not None and row.latency_ms is not None and row.late_ms > LATE * row.latency_ms.p90


def _names(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(row.name for row in rows))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
