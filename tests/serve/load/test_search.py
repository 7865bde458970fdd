from __future__ import annotations

import math

import pytest

from zoo.serve.load.run import GROWTH, PRECISION, highest_rate


@pytest.mark.parametrize("guess", [10.0, 95.0, 400.0, 700.0])
def test_the_capacity_is_found_from_below_and_from_above(guess: float) -> None:
    tried: list[float] = []

    def holds(rate: float) -> bool:
        tried.append(rate)
        return rate <= 100

    found = highest_rate(holds, guess)
    assert found.rate is not None
    assert found.failing_rate is not None
    assert found.rate <= 100 < found.failing_rate <= (1 + PRECISION) * found.rate
    assert found.tried == len(tried) == len(set(tried)) <= 14


def test_a_bound_that_no_rate_keeps_has_no_rate() -> None:
    found = highest_rate(lambda rate: math.isinf(rate), 100.0)
    assert found.rate is None
    assert found.failing_rate == pytest.approx(100 / 8)
    assert found.tried == 4


def test_a_server_without_limit_ends_the_search() -> None:
    found = highest_rate(lambda rate: rate > 0, 1.0)
    assert found.failing_rate is None
    assert found.rate == pytest.approx(GROWTH**15)
