from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from zoo.predictors.eager import has_bf16_instructions
from zoo.predictors.load import load_predictor
from zoo.serve.bench.queries import Query, Staged, ahead, alone
from zoo.serve.bench.timing import ROUNDS, Budget, in_turns, repeat, settled, warm_up

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def turns_of(calls: list[str], *names: str) -> list[Callable[[Budget], list[float]]]:
    """Return turns that note each run in a list."""

    def turn(name: str) -> Callable[[Budget], list[float]]:
        return lambda budget: settled(lambda: calls.append(name), budget)

    return [turn(name) for name in names]


def test_backends_take_turns_and_the_first_run_after_a_change_is_not_counted() -> None:
    calls: list[str] = []
    rounds: list[int] = []
    found = in_turns(turns_of(calls, "a", "b"), Budget(seconds=0, runs=20), rounds.append)
    assert "".join(calls) == "aaabbb" * ROUNDS
    assert [[len(counted) for counted in timing] for timing in found] == [[2] * ROUNDS] * 2
    assert rounds == list(range(1, ROUNDS + 1))


def test_each_backend_runs_until_both_time_and_runs_are_reached() -> None:
    calls: list[str] = []
    start = time.perf_counter()
    seconds = repeat(lambda: calls.append("a"), Budget(seconds=0.05, runs=1))
    assert time.perf_counter() - start >= 0.05
    assert len(seconds) == len(calls) > 10
    assert len(repeat(lambda: calls.append("a"), Budget(seconds=0, runs=7))) == 7


def test_the_warm_up_runs_at_least_ten_times_and_gives_the_time_of_the_first() -> None:
    naps = iter([0.02])
    calls: list[float] = []

    def run() -> None:
        calls.append(next(naps, 0.001))
        time.sleep(calls[-1])

    assert 0.02 <= warm_up(run) < 0.2
    assert len(calls) > 10


class Lane:
    """Stands where a query's buffers are and notes what happens to it."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events

    def start(self) -> None:
        self.events.append(f"+{self.name}")

    def finish(self) -> Query:
        self.events.append(f"-{self.name}")
        return Query(h2d=1, gpu_compute=2, d2h=3, enqueue=9)


def lanes(events: list[str]) -> list[Any]:
    return [Lane("a", events), Lane("b", events)]


def test_the_throughput_is_of_queries_with_one_enqueued_ahead() -> None:
    events: list[str] = []
    queries, seconds = ahead(lanes(events), Budget(seconds=0, runs=5))
    assert " ".join(events) == "+a +b -a +a -b +b -a +a -b -a"
    assert len(queries) == 5
    assert seconds > 0


def test_the_throughput_is_measured_until_time_and_runs_are_reached() -> None:
    events: list[str] = []
    queries, seconds = ahead(lanes(events), Budget(seconds=0.02, runs=2))
    assert seconds >= 0.02
    assert len(queries) == events.count("+a") + events.count("+b") == len(events) / 2


def test_the_latency_is_of_queries_that_wait_for_the_one_before() -> None:
    events: list[str] = []
    queries = alone(lanes(events)[0], Budget(seconds=0, runs=3))
    assert events == ["+a", "-a"] * 4
    assert len(queries) == 3  # the first, after another backend, is not counted


def test_the_latency_of_a_query_is_what_the_gpu_does() -> None:
    assert Query(h2d=1, gpu_compute=2, d2h=3, enqueue=9).latency == 6


@pytest.mark.parametrize(
    "backend",
    [
        "eager",
        pytest.param(
            "eager-amp",
            marks=pytest.mark.skipif(
                not has_bf16_instructions(), reason="the CPU has no bfloat16 instructions"
            ),
        ),
    ],
)
def test_pytorch_runs_in_the_stages_that_a_gpu_is_timed_in(tiny_bundle: Path, backend: str) -> None:
    predictor: Any = load_predictor(tiny_bundle, backend=backend)
    assert isinstance(predictor, Staged)
    images = np.random.default_rng(0).integers(256, size=(2, 64, 64, 3)).astype(np.uint8)
    staged = predictor.download(predictor.compute(predictor.upload(images)))
    assert np.array_equal(staged, predictor.run(images))
