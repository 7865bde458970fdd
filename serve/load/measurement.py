"""Settings and results of a load test, as written to `load.json`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from zoo.frozen import Frozen
from zoo.serve.bench.measurement import Times

Route = Literal["predict", "oip"]

PARTS = ("decode", "queue", "compute", "encode")
"""Parts of the server's time in the header Server-Timing."""
REST = "rest"
"""Rest of the latency: HTTP on both sides, network, client."""

BOUND_MS = 100.0
"""Default of `--bound-ms`; MLPerf's bound for object detection in the Server scenario (RetinaNet)."""
ALLOWED = 0.01
"""Share of the requests that may exceed the bound, which applies to p99."""


class Settings(Frozen):
    """Settings of a load test.

    Args:
        clients: numbers of clients of the closed loop.
        rates: arrivals per second of the open loop; None for shares of the best throughput of `clients`.
        bound_ms: latency that 99 % of the requests must meet for a rate to count as served.
        seconds: minimum duration for each number of clients and each rate.
        requests: minimum number of requests for each.
        search_seconds: minimum duration for each rate of the search; a queue must have time to grow.
        search_requests: minimum requests for each rate of the search, unless that takes over a minute.
        timeout: seconds after which a request counts as failed.
        route: `predict` for image files and PNG masks, `oip` for tensors of the Open Inference Protocol.
        threads: CPU threads of the bare model.
        quick: whether the effort was reduced for rough figures.
    """

    clients: tuple[int, ...] = (1, 8, 32)
    rates: tuple[float, ...] | None = None
    bound_ms: float = BOUND_MS
    seconds: float = 10.0
    requests: int = 100
    search_seconds: float = 10.0
    search_requests: int = 1000
    timeout: float = 30.0
    route: Route = "predict"
    threads: int = 1
    quick: bool = False


class Server(Frozen):
    """Tested server, model and requests.

    Args:
        url: address of the server.
        model: name of the model on the server.
        version: version of the model on the server.
        backend: backend of the model, as reported by the server; None if it does not report one.
        description: description of the backend, as reported by the server.
        reason: reason for the backend, as reported by the server.
        images: description of the images, which are cycled through.
        request_bytes: mean size of a request's body.
    """

    url: str
    model: str
    version: str | None = None
    backend: str | None = None
    description: str | None = None
    reason: str | None = None
    images: str
    request_bytes: float


class Row(Frozen):
    """Figures of one load.

    Args:
        loop: `closed` or `open`.
        clients: number of clients of the closed loop.
        rate: requested arrivals per second of the open loop.
        searched: whether the rate belongs to the search for the goodput.
        requests: number of requests sent in the window.
        errors: number of failed requests by status or kind.
        latency_ms: latency of successful requests, in the open loop from their due time; None without any.
        answered_per_s: successful responses per second.
        in_time: share of the requests that were answered within the bound.
        parts_ms: means of `PARTS` and `REST`, which add up to the mean latency; empty without Server-Timing.
        sent_bytes: size of all requests.
        received_bytes: size of all responses.
        client_cpu: maximum share of one core that the client used in a round.
        late_ms: p99 of the delay between due time and sending; None in the closed loop.
        connections: maximum number of connections that the client opened in a round.
        seconds: length of the window.
    """

    loop: Literal["closed", "open"]
    clients: int | None = None
    rate: float | None = None
    searched: bool = False
    requests: int
    errors: dict[str, int] = Field(default_factory=dict)
    latency_ms: Times | None
    answered_per_s: float
    in_time: float
    parts_ms: dict[str, float] = Field(default_factory=dict)
    sent_bytes: int
    received_bytes: int
    client_cpu: float
    late_ms: float | None = None
    connections: int
    seconds: float

    @property
    def name(self) -> str:
        """Return the name in tables."""
        if self.loop == "open":
            return f"{self.rate:.4g}/s"
        return "1 client" if self.clients == 1 else f"{self.clients} clients"

    @property
    def failed(self) -> int:
        """Return the number of failed requests."""
        return sum(self.errors.values())

    @property
    def holds(self) -> bool:
        """Return whether no request failed and 99 % were answered within the bound."""
        return self.failed == 0 and self.in_time >= 1 - ALLOWED


class Goodput(Frozen):
    """Goodput: the highest rate within the bound, the metric of MLPerf's Server scenario.

    Args:
        rate: arrivals per second; None if even the lowest tried rate exceeds the bound.
        failing_rate: lowest rate above it that exceeded the bound; None if none did.
        tried: number of rates that were tried.
    """

    rate: float | None
    failing_rate: float | None
    tried: int


class Bare(Frozen):
    """Figures of the model without a server, timed in turns with the closed loop on the same images.

    Args:
        path: path of the model.
        backend: backend that ran it.
        description: description of runtime and device.
        end_to_end_ms: time from an image in memory to its mask.
    """

    path: str
    backend: str
    description: str
    end_to_end_ms: Times


class Report(Frozen):
    """Rows of one load test, with the facts needed to judge and repeat it.

    Args:
        timestamp: start of the test, UTC.
        command: command line.
        machine: client machine, see `zoo.serve.bench.machine`.
        versions: versions of the client's software.
        settings: settings of the test.
        server: tested server, model and requests.
        rows: rows by number of clients, then by rate.
        goodput: highest rate within the bound; None if it was not searched for.
        bare: figures of the bare model; None without a model to compare with.
    """

    format: int = 1
    timestamp: str
    command: str
    machine: dict[str, Any]
    versions: dict[str, str | None]
    settings: Settings
    server: Server
    rows: tuple[Row, ...]
    goodput: Goodput | None = None
    bare: Bare | None = None

    @property
    def closed(self) -> list[Row]:
        """Return the rows of the closed loop."""
        return [row for row in self.rows if row.loop == "closed"]

    @property
    def fewest_clients(self) -> Row:
        """Return the closed-loop row with the fewest clients."""
        return min(self.closed, key=lambda row: row.clients or 0)

    @property
    def open(self) -> list[Row]:
        """Return the rows of the open loop, by rate."""
        return [row for row in self.rows if row.loop == "open"]
