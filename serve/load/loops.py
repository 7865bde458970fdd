"""Load on a server: by clients that wait for their answers, or by arrivals that wait for nobody.

Closed loop: each of N clients has one connection and sends its next request when the answer is there. A slow
server gets fewer requests, so its bad moments hide. Open loop: requests arrive at random times of a given
rate (a Poisson process) whether or not earlier ones were answered, as those of many users do; each latency
counts from the arrival that was scheduled, so that a moment in which the server stands still is seen by all
who arrive in it (no coordinated omission).
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
"""Of the open loop; an arrival that finds all of them busy waits for one, which is part of its latency."""
OPENED_AHEAD = 32
PAUSE = 0.01
"""Seconds that a client of the closed loop waits after a request that failed without an answer."""

OK = ""
FAILURES: dict[type[Exception], str] = {
    TimeoutError: "timeout",
    ConnectionRefusedError: "refused",
    OSError: "connection lost",
    EOFError: "closed early",
    ProtocolError: "not HTTP",
}
"""What is said of each way to fail; the first that fits."""


class Target(NamedTuple):
    """What requests are sent to, and which."""

    address: Address
    requests: tuple[bytes, ...]
    """As they go over the wire, sent one after the other and over again."""
    timeout: float
    """Seconds after which a request counts as failed, in the open loop from when it was due."""


class Sample(NamedTuple):
    """One request; times are seconds of `time.perf_counter`."""

    start: float
    """When it was sent; in the open loop when it was due."""
    sent: float
    end: float
    kind: str
    """`OK`, or how it failed: the status or one of `FAILURES`."""
    timing: str
    """The Server-Timing header."""
    sent_bytes: int
    received_bytes: int

    @property
    def seconds(self) -> float:
        """Return its latency."""
        return self.end - self.start


class Observed(NamedTuple):
    """What one round of load showed."""

    samples: list[Sample]
    """Requests whose `start` lies in the window."""
    answered: int
    """Good answers that came in the window."""
    seconds: float
    """Length of the window."""
    cpu: float
    """Share of one core that the client kept busy in it."""
    connections: int


class Limit(NamedTuple):
    """When a round of the open loop is lost and can be left."""

    seconds: float
    """Bound of the latency."""
    share: float
    """Of the requests that may be slower; none may fail."""


class Window:
    """The time in which is counted, opened and closed once."""

    def __init__(self) -> None:
        self.begin = self.end = math.inf
        self.cpu = 0.0

    def open(self) -> None:
        """Begin to count."""
        self.begin, self.cpu = time.perf_counter(), -time.process_time()

    def close(self) -> None:
        """Count no more."""
        if self.end == math.inf:
            self.end = time.perf_counter()
            self.cpu += time.process_time()

    def observed(self, samples: list[Sample], connections: int) -> Observed:
        """Return what was seen in it."""
        seconds = self.end - self.begin
        answered = sum(sample.kind == OK and self.begin < sample.end <= self.end for sample in samples)
        counted = [sample for sample in samples if self.begin <= sample.start <= self.end]
        return Observed(counted, answered, seconds, self.cpu / seconds, connections)


async def closed_loop(target: Target, clients: int, budget: Budget) -> Observed:
    """Return what clients see that each send one request after the other.

    The window opens when each client has had an answer, while the load goes on, and closes when the budget is
    reached; requests that are under way then are waited for.

    Args:
        target: see `Target`.
        clients: how many, each with a connection of its own.
        budget: seconds, and requests of all clients together; until both are reached.
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
    """Return what arrivals at random times see, whether or not the server keeps up.

    Args:
        target: see `Target`.
        rate: arrivals a second.
        budget: seconds and arrivals; until both are reached.
        seed: of the times between arrivals.
        limit: leave off as soon as it is clear that this is not kept.
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
    """Connections of the open loop, used in turns so that all workers of a server get their share.

    Args:
        target: see `Target`.
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
        """Send a request over the connection that has been idle longest; for one that holds a slot."""
        if self.idle:
            connection = self.idle.popleft()
        else:
            connection = Connection(self.target.address)
            self.opened += 1
        sample = await _ask(self.target, connection, request, due)
        self.idle.append(connection)
        return sample

    def close(self) -> None:
        """Close all."""
        for connection in self.idle:
            connection.close()


async def _ask(target: Target, connection: Connection, request: bytes, due: float | None = None) -> Sample:
    """Send a request and return what became of it; a failure closes the connection.

    Args:
        target: see `Target`.
        connection: nobody else uses it.
        request: what is sent.
        due: when it should have been sent; None for now.
    """
    sent, timing, received = time.perf_counter(), "", 0
    start = sent if due is None else due
    left = target.timeout - (sent - start)
    try:
        if left <= 0:  # it waited too long for a connection
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
    """Yield the times of a Poisson process."""
    random = Random(seed)
    return accumulate((random.expovariate(rate) for _ in range(arrivals - 1)), initial=begin)
