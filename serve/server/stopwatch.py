"""How long each part of a request takes, for the header `Server-Timing`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from zoo.serve.server.timings import Timings

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.serve.server.context import Context

P = ParamSpec("P")
T = TypeVar("T")


class Stopwatch:
    """Runs the parts of one request that decode and encode, and knows how long each part took.

    Args:
        context: of the app, whose threads are used.
    """

    def __init__(self, context: Context) -> None:
        self.timings = Timings()
        """For the model to fill."""
        self._context = context
        self._codec: dict[str, float] = {}

    async def run(self, part: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a function returns in one of the threads for decoding and encoding.

        Args:
            part: `decode` or `encode`.
            function: what is timed.
            args: its own.
            kwargs: its own.
        """
        begin = time.perf_counter()
        result = await self._context.in_pool(function, *args, **kwargs)
        self._codec[part] = time.perf_counter() - begin
        return result

    @property
    def headers(self) -> dict[str, str]:
        """Return the header, in milliseconds and in the order of the parts."""
        parts = {
            "decode": self._codec["decode"],
            "queue": self.timings.queue_s,
            "compute": self.timings.compute_s,
            "encode": self._codec["encode"],
        }
        text = ", ".join(f"{part};dur={seconds * 1000:.2f}" for part, seconds in parts.items())
        return {"Server-Timing": text}
