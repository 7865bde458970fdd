"""Events of a run for callbacks, which the engine calls in the first process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from zoo.data.source import Source
    from zoo.predictors.eager import EagerPredictor
    from zoo.predictors.tags import TagPredictor


class Event(NamedTuple):
    """State of a run after a step at which figures were logged: every tenth one, and each evaluation."""

    run: Path
    """Folder of the run."""
    step: int
    """Number of steps taken."""
    steps: int
    """Number of steps of the run."""
    phase: str
    """Name of the current phase."""
    phases: Mapping[str, int]
    """Number of steps of each phase."""
    figures: Mapping[str, float]
    """Figures by the names of `log.csv`: `loss/...`, `lr`, and after an evaluation `val/miou`, ..."""
    predictor: Callable[[], EagerPredictor | TagPredictor]
    """Return a predictor of the current networks, valid until the callback returns."""
    source: Source
    """Data of the run."""


Callback = Callable[[Event], object]

_callbacks: ContextVar[tuple[Callback, ...]] = ContextVar("callbacks", default=())


@contextmanager
def called_back(*callbacks: Callback) -> Iterator[None]:
    """Call these functions with the events of the runs that start inside the block."""
    token = _callbacks.set((*_callbacks.get(), *callbacks))
    try:
        yield
    finally:
        _callbacks.reset(token)


def callbacks() -> tuple[Callback, ...]:
    """Return the functions to call with the events of a run that starts here."""
    return _callbacks.get()
