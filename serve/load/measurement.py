"""What a load test is asked for and what it finds, as it stands in `load.json`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from zoo.frozen import Frozen
from zoo.serve.bench.measurement import Times

Route = Literal["predict", "oip"]

PARTS = ("decode", "queue", "compute", "encode")
"""What the server says of its time, in the header Server-Timing."""
REST = "rest"
"""What is left of the latency: HTTP on both sides, the wire, the client."""

BOUND_MS = 100.0
"""Default of `--bound-ms`, MLPerf's for its detection server (RetinaNet)."""
ALLOWED = 0.01
"""Share of the requests that may exceed the bound: the bound is one of p99."""


class Settings(Frozen):
    """How much load, for how long.

    Args:
        clients: numbers of clients that wait for their answers.
        rates: arrivals a second of the open loop; None for shares of the best throughput of `clients`.
        bound_ms: latency that 99 of 100 requests must keep for a rate to count as served.
        seconds: at least this long for each number of clients and each rate.
        requests: at least this many for each.
        search_seconds: at least this long for each rate of the search; a queue must have time to grow.
        search_requests: at least this many for each rate of the search, unless that takes over a minute.
        timeout: seconds after which a request counts as failed.
        route: `predict`, encoded images to PNG masks, or `oip`, raw tensors by the Open Inference Protocol.
        threads: of the bare model, on the CPU.
        quick: whether effort was lowered for a first look.
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
    """What answered, and to what.

    Args:
        url: of the server.
        model: its name there.
        version: likewise.
        backend: what runs it, as the server says; None where it does not say.
        description: likewise.
        reason: why this backend.
        images: how many different ones are sent in turns, and what they are.
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
    """The figures of one load.

    Args:
        loop: `closed`, clients that wait, or `open`, arrivals that do not.
        clients: of the closed loop.
        rate: arrivals a second of the open loop, as asked for.
        searched: whether the rate was tried in search of the highest that keeps the bound.
        requests: how many were sent in the time that counts.
        errors: how many failed, by status or kind.
        latency_ms: of those that were answered, in the open loop from the time a request was due; None
            without any.
        answered_per_s: good answers over the time that counts.
        in_time: share of the requests that were answered within the bound.
        parts_ms: means of `PARTS` and `REST`, which add up to the mean latency; empty without Server-Timing.
        sent_bytes: of all requests.
        received_bytes: of all answers.
        client_cpu: share of one core that the client kept busy, at most of a round.
        late_ms: how late requests were sent after they were due, p99; None in the closed loop.
        connections: how many the client opened, at most in a round.
        seconds: the time that counts.
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
        """Return what it is called in tables."""
        if self.loop == "open":
            return f"{self.rate:.4g}/s"
        return "1 client" if self.clients == 1 else f"{self.clients} clients"

    @property
    def failed(self) -> int:
        """Return how many requests failed."""
        return sum(self.errors.values())

    @property
    def holds(self) -> bool:
        """Return whether nothing failed and 99 of 100 were answered within the bound."""
        return self.failed == 0 and self.in_time >= 1 - ALLOWED


class Goodput(Frozen):
    """The highest rate that keeps the bound, MLPerf's figure of its Server scenario.

    Args:
        rate: arrivals a second; None if not even the lowest that was tried keeps it.
        failing_rate: the lowest above it that did not; None if none was reached.
        tried: how many rates.
    """

    rate: float | None
    failing_rate: float | None
    tried: int


class Bare(Frozen):
    """The model without a server, in turns with the closed loop on the same images.

    Args:
        path: of the model.
        backend: that ran it.
        description: what ran where.
        end_to_end_ms: from an image in memory to its mask.
    """

    path: str
    backend: str
    description: str
    end_to_end_ms: Times


class Report(Frozen):
    """The rows of one call with what is needed to judge and repeat them.

    Args:
        timestamp: when it began, UTC.
        command: the command line.
        machine: of the client, see `zoo.serve.bench.machine`.
        versions: of the client.
        settings: as given.
        server: see `Server`.
        rows: by number of clients, then by rate.
        goodput: None where the bound was not searched for.
        bare: None without a model to compare with.
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
        """Return the rows of clients that wait."""
        return [row for row in self.rows if row.loop == "closed"]

    @property
    def fewest_clients(self) -> Row:
        """Return the row of the fewest clients that wait."""
        return min(self.closed, key=lambda row: row.clients or 0)

    @property
    def open(self) -> list[Row]:
        """Return the rows of arrivals, by rate."""
        return [row for row in self.rows if row.loop == "open"]
