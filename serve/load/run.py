"""Load test: closed loop, then open loop, then the search for the highest rate within the bound.

The numbers of clients and the bare model take turns in rounds, like the backends of a benchmark, so that
other work on the machine slows all of them; so do the rates. Measurements start after a warm-up. Requests are
never retried.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zoo.errors import ZooError
from zoo.predictors.backends import versions
from zoo.serve.bench.benchmark import times
from zoo.serve.bench.machine import describe_machine, load_average
from zoo.serve.bench.timing import ROUNDS, Budget, in_turns, settled, warm_up
from zoo.serve.load.client import Client
from zoo.serve.load.loops import OK, Limit, Observed
from zoo.serve.load.measurement import ALLOWED, PARTS, REST, Bare, Goodput, Report, Row, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.predictors.base import Predictor
    from zoo.serve.load.loops import Sample
    from zoo.serve.load.target import Found

    Say = Callable[[str], None]
    Turn = Callable[[Budget], Observed | list[float]]


WARM_UP = Budget(seconds=1.0, runs=20)
SHARES = (0.25, 0.5, 0.75, 1.0, 1.25)
"""Rates of the open loop, as shares of the best throughput of the closed loop."""
RATE_ROUNDS = 2
TRIES = 2
"""Tries of each rate of the search, so that a moment of other work does not decide."""
LONGEST_TRY = 60.0
"""Maximum seconds for one rate of the search, if it has enough requests for the allowed share."""

LATE_PERCENTILE = 99

PRECISION = 0.05
"""Maximum relative gap between the rate that is found and the next failing one."""

GROWTH = 1.5

LEAST = 1 / 8
"""Share of the first guess below which no rate is tried."""

MOST_TRIES = 16


class BareModel(NamedTuple):
    """Model without a server to compare with."""

    path: Path
    predictor: Predictor


def load_test(found: Found, bare: BareModel | None, settings: Settings, say: Say) -> Report:
    """Return the report of a load test.

    Args:
        found: server that has responded.
        bare: model to compare with; None for no comparison.
        settings: settings of the load test.
        say: called with a line for each step.

    Raises:
        ZooError: the server answers no request of the warm-up.
    """
    timestamp, machine = datetime.now(UTC).isoformat(timespec="seconds"), describe_machine()
    with Client(found.target) as client:
        say("warm-up")
        warm = client.closed(max(settings.clients), WARM_UP)
        if not warm.answered:
            raise ZooError(
                f"{found.server.url} answered none of {len(warm.samples)} requests of the warm-up "
                f"({warm.samples[0].kind}), expected successful responses: see the server's log"
            )
        test = LoadTest(client, settings, say)
        closed, bare_figures = test.clients(bare, found.inputs)
        swept = test.rates(offered(settings, closed))
        goodput = test.search(swept)
    by_rate = sorted(swept + test.searched, key=lambda each: each.rate or 0)
    return Report(
        timestamp=timestamp,
        command=shlex.join(["zoo", *sys.argv[1:]]),
        machine=machine | {"load_after": load_average()},
        versions=versions(),
        settings=settings,
        server=found.server,
        rows=(*closed, *by_rate),
        goodput=goodput,
        bare=bare_figures,
    )


class LoadTest:
    """Parts of a load test, run one after the other.

    Args:
        client: warmed-up client.
        settings: settings of the load test.
        say: called with a line for each step.
    """

    def __init__(self, client: Client, settings: Settings, say: Say) -> None:
        self.client = client
        self.settings = settings
        self.say = say
        self.budget = Budget(settings.seconds, settings.requests)
        self.searched: list[Row] = []

    def clients(
        self, bare: BareModel | None, inputs: Sequence[NDArray[np.uint8]]
    ) -> tuple[list[Row], Bare | None]:
        """Return a row for each number of clients, and the figures of the bare model, timed in turns."""
        settings = self.settings
        turns: list[Turn] = [partial(self.client.closed, clients) for clients in settings.clients]
        if bare is not None:
            run = _bare_run(bare.predictor, inputs, settings.route)
            warm_up(run)
            turns.append(partial(settled, run))
        seen = in_turns(
            turns, self.budget, lambda number: self.say(f"closed loop, round {number} of {ROUNDS}")
        )
        rows = [
            row(_observed(rounds), settings.bound_ms, loop="closed", clients=clients)
            for clients, rounds in zip(settings.clients, seen, strict=False)
        ]
        return rows, None if bare is None else _bare_figures(bare, seen[-1])

    def rates(self, rates: Sequence[float]) -> list[Row]:
        """Return a row for each arrival rate."""
        share = Budget(self.budget.seconds / RATE_ROUNDS, math.ceil(self.budget.runs / RATE_ROUNDS))
        seen: dict[float, list[Observed]] = {rate: [] for rate in rates}
        for number in range(RATE_ROUNDS):
            for index, rate in enumerate(rates):
                self.say(f"{rate:.4g} arrivals/s, round {number + 1} of {RATE_ROUNDS}")
                seen[rate].append(self.client.open(rate, share, seed=number * len(rates) + index))
        return [row(rounds, self.settings.bound_ms, loop="open", rate=rate) for rate, rounds in seen.items()]

    def search(self, swept: Sequence[Row]) -> Goodput:
        """Return the highest rate within the bound; `searched` has the rows."""
        kept = [each.rate or 0 for each in swept if each.holds]
        guess = max(kept) if kept else min(each.rate or 0 for each in swept) / 2
        return highest_rate(lambda rate: any(self._holds(rate) for _ in range(TRIES)), guess)

    def _holds(self, rate: float) -> bool:
        """Measure a rate once, add a row, and return whether it is within the bound."""
        bound_ms = self.settings.bound_ms
        wanted = min(self.settings.search_requests, math.ceil(rate * LONGEST_TRY))
        seconds = max(self.settings.search_seconds, wanted / rate)
        self.say(f"search: {rate:.4g} arrivals/s within {bound_ms:g} ms? {seconds:.0f} s, again if not")
        limit = Limit(bound_ms / 1000, ALLOWED)
        budget = Budget(self.settings.search_seconds, wanted)
        observed = self.client.open(rate, budget, seed=1000 + len(self.searched), limit=limit)
        self.searched.append(row([observed], bound_ms, loop="open", rate=rate, searched=True))
        return self.searched[-1].holds


def offered(settings: Settings, closed: Sequence[Row]) -> list[float]:
    """Return the arrival rates to measure, in increasing order.

    Args:
        settings: settings of the load test.
        closed: rows of the closed loop; the default rates are shares of the best throughput.

    Raises:
        ZooError: the best throughput is zero.
    """
    if settings.rates is not None:
        return sorted(settings.rates)
    best = max(each.answered_per_s for each in closed)
    if best == 0:
        raise ZooError(
            "the server answered no client in the measured time, expected responses to derive rates from: "
            "increase --seconds, or set --rates"
        )
    return [float(f"{best * share:.3g}") for share in SHARES]


def _bare_run(predictor: Predictor, inputs: Sequence[NDArray[np.uint8]], route: str) -> Callable[[], object]:
    """Return a function that predicts the next image, without resizing if the server does none."""
    images = cycle(inputs)
    if route == "oip":
        return lambda: predictor.run(next(images)[None])
    return lambda: predictor.predict(next(images))


def _observed(rounds: Sequence[Observed | list[float]]) -> list[Observed]:
    return [each for each in rounds if isinstance(each, Observed)]


def _bare_figures(bare: BareModel, rounds: Sequence[Observed | list[float]]) -> Bare:
    milliseconds = [[1000 * run for run in each] for each in rounds if isinstance(each, list)]
    return Bare(
        path=str(bare.path),
        backend=bare.predictor.backend,
        description=bare.predictor.description,
        end_to_end_ms=times(milliseconds),
    )


def row(rounds: Sequence[Observed], bound_ms: float, **load: Any) -> Row:
    """Return the row of all rounds of one load.

    Args:
        rounds: observations of each round.
        bound_ms: latency bound.
        load: fields of the row that describe the load.
    """
    samples = [sample for observed in rounds for sample in observed.samples]
    good = [[1000 * each.seconds for each in observed.samples if each.kind == OK] for observed in rounds]
    answered = [latencies for latencies in good if latencies]
    in_time = sum(latency <= bound_ms for latencies in answered for latency in latencies)
    seconds = sum(observed.seconds for observed in rounds)
    errors = Counter(sample.kind for sample in samples if sample.kind != OK)
    return Row(
        requests=len(samples),
        errors=dict(sorted(errors.items())),
        latency_ms=times(answered) if answered else None,
        answered_per_s=sum(observed.answered for observed in rounds) / seconds,
        in_time=in_time / len(samples) if samples else 0.0,
        parts_ms=parts(samples),
        sent_bytes=sum(sample.sent_bytes for sample in samples),
        received_bytes=sum(sample.received_bytes for sample in samples),
        client_cpu=max(observed.cpu for observed in rounds),
        late_ms=_late(samples) if load["loop"] == "open" else None,
        connections=max(observed.connections for observed in rounds),
        seconds=seconds,
        **load,
    )


def parts(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the mean milliseconds of each part, over responses with Server-Timing; they sum to the mean.

    Args:
        samples: requests, including failed ones.
    """
    found = [(sample, server_timing(sample.timing)) for sample in samples if sample.kind == OK]
    timed = [(sample, timing) for sample, timing in found if timing]
    if not timed:
        return {}
    means = {part: float(np.mean([timing.get(part, 0.0) for _, timing in timed])) for part in PARTS}
    whole = 1000 * float(np.mean([sample.seconds for sample, _ in timed]))
    return {**means, REST: whole - sum(means.values())}


def server_timing(header: str) -> dict[str, float]:
    """Return the milliseconds of each entry with a duration in a Server-Timing header.

    Example:
        >>> server_timing("decode;dur=1.5, queue;desc=waiting;dur=0.25, miss")
        {'decode': 1.5, 'queue': 0.25}
    """
    found = {}
    for entry in header.split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key == "dur":
                found[name] = float(value)
    return found


def _late(samples: Sequence[Sample]) -> float | None:
    """Return the p99 of the delay between due time and sending, in milliseconds."""
    late = [1000 * (sample.sent - sample.start) for sample in samples]
    return float(np.percentile(late, LATE_PERCENTILE)) if late else None


def highest_rate(holds: Callable[[float], bool], guess: float) -> Goodput:
    """Return the highest rate that holds, to within `PRECISION`.

    Args:
        holds: function that measures whether the server keeps the bound at a rate.
        guess: first rate to try.
    """
    low, high, rate, tried = 0.0, math.inf, guess, 0
    while tried < MOST_TRIES and rate >= LEAST * guess and high > (1 + PRECISION) * low:
        tried += 1
        if holds(rate):
            low = rate
        else:
            high = rate
        rate = GROWTH * low if math.isinf(high) else (low + high) / 2
    return Goodput(rate=low or None, failing_rate=None if math.isinf(high) else high, tried=tried)
