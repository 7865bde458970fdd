"""Progress of long commands on standard error: a bar in a terminal, an occasional line elsewhere."""

from __future__ import annotations

import logging
import time
from functools import cache
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

log = logging.getLogger(__name__)

LINE_SECONDS = 30.0
"""Interval between lines where standard error is not a terminal."""


@cache
def stderr_console() -> Console:
    """Return the console of standard error, which progress bars and log lines share."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, highlight=False)


class Progress:
    """Context that reports on standard error how many images are done.

    Args:
        total: number of images; None if unknown.
        unit: what is counted.
    """

    def __init__(self, total: int | None, unit: str = "images") -> None:
        self.total = total
        self.unit = unit
        self.done = 0
        self._begin = self._said = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        if stderr_console().is_terminal and self.total != 1:
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=stderr_console(), transient=True)
            self._bar.add_task("", total=self.total)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int = 1) -> None:
        """Count more images, by default one."""
        self.done += count
        now = time.monotonic()
        text = pace(self.done, self.total, now - self._begin, self.unit)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, description=text)
        elif now - self._said >= LINE_SECONDS:
            self._said = now
            log.info("%s", text)


def pace(done: int, total: int | None, seconds: float, unit: str = "images") -> str:
    """Return images done, images per second and time left as text.

    Args:
        done: number of images done.
        total: number of all images; None if unknown.
        seconds: time since the start.
        unit: what is counted.

    Example:
        >>> pace(1000, 4000, 50.0)
        '1,000 of 4,000 images, 20.0 images/s, 2:30 left'
    """
    rate = done / max(seconds, 1e-9)
    if total is None:
        return f"{done:,} {unit}, {rate:.1f} {unit}/s"
    left = round((total - done) / rate) if done else 0
    clock = (
        f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        if left >= 3600
        else f"{left // 60}:{left % 60:02}"
    )
    return f"{done:,} of {total:,} {unit}, {rate:.1f} {unit}/s, {clock} left"
