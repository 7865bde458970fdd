"""Closed-loop and open-loop load on a server.

Closed loop: each of N clients has one connection and sends its next request after the response to the last.
A slow server gets fewer requests, which hides its stalls. Open loop: requests arrive at random times at a
given rate (a Poisson process), whether or not earlier ones were answered, like those of many users. Latency
counts from the scheduled arrival, so that every request that arrives during a stall shows it (no coordinated
omission).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from itertools import accumulate, count, cycle
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from zoo.serve.load.http import Connection, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoo.serve.bench.timing import Budget
    from zoo.serve.load.http import Address

MAX_CONNECTIONS = 256
"""Maximum connections of the open loop; waiting for a free one is part of the latency."""
OPENED_AHEAD = 32
PAUSE = 0.01
"""Pause of a closed-loop client after a request that failed without a response, in seconds."""

OK = ""
FAILURES: dict[type[Exception], str] = {
    TimeoutError: "timeout",
    ConnectionRefusedError: "refused",
    OSError: "connection lost",
    EOFError: "closed early",
    ProtocolError: "not HTTP",
}
"""Names of failures; the first that matches is used."""


class Target(NamedTuple):
    """Server and requests of a load test."""

    address: Address
    requests: tuple[bytes, ...]
    """Requests as sent over the wire; cycled through."""
    timeout: float
    """Seconds after which a request counts as failed; in the open loop, from its due time."""


class Sample(NamedTuple):
    """One request; times are seconds of `time.perf_counter`."""

    start: float
    """Time at which it was sent; in the open loop, at which it was due."""
    sent: float
    end: float
    kind: str
    """`OK`, or the failure: its status or one of `FAILURES`."""
    timing: str
    """The Server-Timing header."""
    sent_bytes: int
    received_bytes: int

    @property
    def seconds(self) -> float:
        """Return the latency."""
        return self.end - self.start


class Observed(NamedTuple):
    """Observations of one round of load."""

    samples: list[Sample]
    """Requests whose `start` is in the window."""
    answered: int
    """Number of successful responses in the window."""
    seconds: float
    """Length of the window."""
    cpu: float
    """Share of one core that the client used in the window."""
    connections: int


class Limit(NamedTuple):
    """Condition under which a round of the open loop is stopped early."""

    seconds: float
    """Latency bound."""
    share: float
    """Share of the requests that may be slower; none may fail."""


class Window:
    """Measurement window, opened and closed once."""

    def __init__(self) -> None:
        self.begin = self.end = math.inf
        self.cpu = 0.0

    def open(self) -> None:
        """Start counting."""
        self.begin, self.cpu = time.perf_counter(), -time.process_time()

    def close(self) -> None:
        """Stop counting."""
        if self.end == math.inf:
            self.end = time.perf_counter()
            self.cpu += time.process_time()

    def observed(self, samples: list[Sample], connections: int) -> Observed:
        """Return the observations in the window."""
        seconds = self.end - self.begin
        answered = sum(sample.kind == OK and self.begin < sample.end <= self.end for sample in samples)
        counted = [sample for sample in samples if self.begin <= sample.start <= self.end]
        return Observed(counted, answered, seconds, self.cpu / seconds, connections)


async def closed_loop(target: Target, clients: int, budget: Budget) -> Observed:
    """Return the observations of clients that each send one request after the other.

    The window opens once each client has had a response, while the load continues, and closes when the budget
    is reached; requests in flight are then finished.

    Args:
        target: server and requests.
        clients: number of clients, each with its own connection.
        budget: minimum seconds, and minimum requests of all clients together.
    """
    window, samples, requests = Window(), list[Sample](), cycle(target.requests)
    starting, done = clients, 0

    async def client() -> None:
        nonlocal starting, done
        connection = Connection(target.address)
        for turn in count():
            sample = await _ask(target, connection, next(requests))
            samples.append(sample)
            if turn == 0:
                starting -= 1
                if starting == 0:
                    window.open()
            done += sample.start >= window.begin
            if done >= budget.runs and time.perf_counter() >= window.begin + budget.seconds:
                break
            if sample.received_bytes == 0:
                await asyncio.sleep(PAUSE)
        window.close()
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return window.observed(samples, clients)


async def open_loop(
    target: Target, rate: float, budget: Budget, seed: int, limit: Limit | None = None
) -> Observed:
    """Return the observations of arrivals at random times, whether or not the server keeps up.

    Args:
        target: server and requests.
        rate: arrivals per second.
        budget: minimum seconds and minimum arrivals.
        seed: seed of the arrival times.
        limit: stop early once this can no longer be met; None to run to the end.
    """
    arrivals = max(math.ceil(rate * budget.seconds), budget.runs)
    pool, window, requests = Pool(target), Window(), cycle(target.requests)
    await pool.open_ahead()
    samples, bad = list[Sample](), 0

    async def arrive(due: float) -> None:
        nonlocal bad
        async with pool.slots:
            sample = await pool.ask(next(requests), due)
        samples.append(sample)
        if limit and (sample.kind != OK or sample.seconds > limit.seconds):
            bad += 1 if sample.kind == OK else arrivals

    tasks = set()
    window.open()
    for due in _due_times(window.begin, rate, arrivals, seed):
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if limit and bad > limit.share * arrivals:
            break
        tasks.add(asyncio.create_task(arrive(due)))
    window.close()
    await asyncio.gather(*tasks)
    pool.close()
    return window.observed(samples, pool.opened)


class Pool:
    """Connections of the open loop, used in rotation so that all workers of a server get requests.

    Args:
        target: server and requests.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self.idle: deque[Connection] = deque()
        self.opened = 0

    async def open_ahead(self) -> None:
        """Open some connections before they are needed."""
        self.idle.extend(Connection(self.target.address) for _ in range(OPENED_AHEAD))
        self.opened = OPENED_AHEAD
        await asyncio.gather(*(each.open() for each in self.idle), return_exceptions=True)

    async def ask(self, request: bytes, due: float) -> Sample:
        """Send a request over the connection that has been idle longest; the caller holds a slot."""
        if self.idle:
            connection = self.idle.popleft()
        else:
            connection = Connection(self.target.address)
            self.opened += 1
        sample = await _ask(self.target, connection, request, due)
        self.idle.append(connection)
        return sample

    def close(self) -> None:
        """Close all connections."""
        for connection in self.idle:
            connection.close()


async def _ask(target: Target, connection: Connection, request: bytes, due: float | None = None) -> Sample:
    """Send a request and return its sample; a failure closes the connection.

    Args:
        target: server and requests.
        connection: connection that nothing else uses.
        request: request as sent over the wire.
        due: time at which it was due; None for now.
    """
    sent, timing, received = time.perf_counter(), "", 0
    start = sent if due is None else due
    left = target.timeout - (sent - start)
    try:
        if left <= 0:  # it waited for a connection for too long
            raise TimeoutError
        async with asyncio.timeout(left):
            answer = await connection.ask(request)
        kind = OK if answer.status == 200 else str(answer.status)
        timing = answer.header(b"server-timing").decode("latin-1")
        received = len(answer.head) + len(answer.body)
    except tuple(FAILURES) as error:
        connection.close()
        kind = next(text for failure, text in FAILURES.items() if isinstance(error, failure))
    return Sample(start, sent, time.perf_counter(), kind, timing, len(request), received)


def _due_times(begin: float, rate: float, arrivals: int, seed: int) -> Iterator[float]:
    """Yield the arrival times of a Poisson process."""
    random = Random(seed)
    return accumulate((random.expovariate(rate) for _ in range(arrivals - 1)), initial=begin)
