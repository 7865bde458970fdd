"""Progress of training on a terminal or in a log file, and a warning of slow data loading."""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import contextmanager
from shlex import quote
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from zoo.progress import stderr_console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from torch import Tensor

    from zoo.train.recipe.schema import DataConfig


log = logging.getLogger(__name__)

LINE_EVERY_S = 15.0
SHOW_EVERY_S = 0.5

STEPS = 50
"""Number of recent steps whose waiting time is measured."""

MOST_SHARE = 0.3
"""Largest share of waiting time without a warning."""


class StepReporter:
    """Displays step, phase, losses, images/s and the time left on standard error.

    Args:
        steps: number of steps of the run.
        start: number of steps taken before.
        shown: whether to display anything; False for all processes of a run except the first.
    """

    def __init__(self, steps: int, start: int, *, shown: bool = True) -> None:
        self.console = stderr_console() if shown else Console(quiet=True)
        self.steps, self.start, self.step, self.images = steps, start, start, 0
        self.began = self.shown = self.lined = time.perf_counter()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (shown and self.console.is_terminal),
        )
        self.task = self.bar.add_task("train", total=steps, completed=start, losses="")

    def __enter__(self) -> StepReporter:
        """Show the bar."""
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        self.bar.stop()

    @property
    def images_per_s(self) -> float:
        """Return images per second since the start, including evaluations."""
        return self.images / max(1e-9, time.perf_counter() - self.began)

    def advance(self, phase: str, losses: dict[str, Tensor], images: int) -> None:
        """Count a step; the losses are copied from the device only when they are displayed."""
        self.step += 1
        self.images += images
        now = time.perf_counter()
        is_last = self.step == self.steps
        if now - self.shown >= SHOW_EVERY_S or is_last:
            self.shown = now
            text = " ".join(f"{name} {float(loss):.3g}" for name, loss in losses.items())
            text += f" {self.images_per_s:.0f} images/s"
            self.bar.update(self.task, completed=self.step, description=phase, losses=text)
            if not self.console.is_terminal and (now - self.lined >= LINE_EVERY_S or is_last):
                self.lined = now
                left = (self.steps - self.step) * (now - self.began) / (self.step - self.start)
                self.console.print(f"{phase} {self.step}/{self.steps} {text}, {left:.0f} s left")

    def remark(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text)


class DataWait:
    """Measures the time spent waiting for batches, and warns if it is long.

    Args:
        data: data settings of the recipe, for the warning.
        clock: function that returns monotonic seconds.
    """

    def __init__(self, data: DataConfig, clock: Callable[[], float] = time.perf_counter) -> None:
        self.data, self.clock = data, clock
        self._steps: deque[tuple[float, float]] = deque(maxlen=STEPS)
        self._last: float | None = None
        self._said = False

    @property
    def share(self) -> float | None:
        """Return the share of waiting time in the last steps; None before `STEPS` steps."""
        if len(self._steps) < STEPS:
            return None
        waited = sum(seconds for seconds, _ in self._steps)
        passed = sum(seconds for _, seconds in self._steps)
        return waited / max(passed, 1e-9)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time the block, which waits for the batches of a step; a step lasts from one block to the next.

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
            f"workers (--set data.workers={max(2, 2 * workers)}){caches}; zoo data bench "
            f"{quote(str(self.data.spec))} measures what helps"
        )
