"""The waiting for data is measured, and said once if it is too long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zoo.train.loop.progress import STEPS, DataWait
from zoo.train.recipe.schema import DataConfig

if TYPE_CHECKING:
    from collections.abc import Sequence


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def run(steps: Sequence[tuple[float, float]], **data: object) -> DataWait:
    """Take steps of (seconds of waiting, seconds of work)."""
    clock = Clock()
    wait = DataWait(DataConfig(spec="folder", **data), clock)  # type: ignore[arg-type]
    for waited, worked in steps:
        with wait.waiting():
            clock.time += waited
        clock.time += worked
    return wait


def test_the_share_is_that_of_waiting_in_the_time_of_the_last_steps() -> None:
    assert run([(1, 3)] * STEPS).share is None  # the first starts the workers
    assert run([(1, 3)] * (STEPS + 1)).share == pytest.approx(0.25)
    assert run([(60, 0)] + [(1, 3)] * STEPS).share == pytest.approx(STEPS / (4 * STEPS - 3 + 0), abs=0.02)
    assert run([(5, 0)] * STEPS + [(0, 1)] * (STEPS + 1)).share == 0


def test_too_much_waiting_is_said_once_with_a_remedy(caplog: pytest.LogCaptureFixture) -> None:
    run([(2, 2)] * (3 * STEPS))
    (message,) = caplog.messages
    assert message == (
        "50% of the last 50 steps went by waiting for data: take more than 2 data workers (--set "
        "data.workers=4), or keep decoded images with --set data.cache=memory; zoo data bench folder "
        "measures what helps"
    )


def test_a_cache_that_is_there_is_not_advised(caplog: pytest.LogCaptureFixture) -> None:
    run([(2, 2)] * (STEPS + 1), cache="disk", workers=0)
    assert "data.workers=2); zoo data bench" in caplog.text


@pytest.mark.parametrize("steps", [[(1, 3)] * 200, [(9, 1)] * STEPS, [(60, 0)] + [(0, 1)] * 100])
def test_a_training_that_is_fed_or_has_just_begun_hears_nothing(
    steps: list[tuple[float, float]], caplog: pytest.LogCaptureFixture
) -> None:
    run(steps)
    assert caplog.messages == []


def test_an_error_of_the_loader_passes_through() -> None:
    wait = DataWait(DataConfig())
    with pytest.raises(OSError, match="gone"), wait.waiting():
        raise OSError("gone")
