"""How much of its time a training waits for data, said once when that is too much."""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoo.train.recipe import DataConfig

log = logging.getLogger(__name__)

STEPS = 50
"""The last steps that are looked at."""
MOST_SHARE = 0.3
"""Of their time that may be spent waiting without a word."""


class DataWait:
    """Measures the waiting for batches.

    Args:
        data: of the recipe, for the remedy.
        clock: seconds that go on.
    """

    def __init__(self, data: DataConfig, clock: Callable[[], float] = time.perf_counter) -> None:
        self.data, self.clock = data, clock
        self._steps: deque[tuple[float, float]] = deque(maxlen=STEPS)
        self._last: float | None = None
        self._said = False

    @property
    def share(self) -> float | None:
        """Return which share of the time of the last steps was spent waiting, None before `STEPS` of them."""
        if len(self._steps) < STEPS:
            return None
        waited = sum(seconds for seconds, _ in self._steps)
        passed = sum(seconds for _, seconds in self._steps)
        return waited / max(passed, 1e-9)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time the block that waits for the batches of a step; a step is all that lies since the one before.

        The first block starts the workers and does not count.
        """
        began = self.clock()
        yield
        now = self.clock()
        if self._last is not None:
            self._steps.append((now - began, now - self._last))
        self._last = now
        share = self.share
        if not self._said and share is not None and share > MOST_SHARE:
            self._said = True
            log.warning("%s", self._advice(share))

    def _advice(self, share: float) -> str:
        workers = self.data.workers
        caches = "" if self.data.cache != "none" else ", or keep decoded images with --set data.cache=memory"
        return (
            f"{share:.0%} of the last {STEPS} steps went by waiting for data: take more than {workers} data "
            f"workers (--set data.workers={max(2, 2 * workers)}){caches}; zoo data bench {self.data.spec} "
            f"measures what helps"
        )
