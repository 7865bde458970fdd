"""The client in a process of its own, so that nothing else takes its time or has its time taken.

Why not httpx2: on one core of the development machine, with 32 connections, requests of 57 kB and answers of
11 kB, httpx2 2.16 came to 740 requests/s at 747 microseconds of CPU time each, `zoo.serve.load.http` to
7,100 at 52, where the server at the other end, which did nothing, was the limit.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import selectors
import signal
from functools import partial
from typing import TYPE_CHECKING

from zoo.errors import ZooError
from zoo.serve.load.loops import closed_loop, open_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from multiprocessing.connection import Connection as Pipe
    from typing import Any, Self

    from zoo.serve.bench.timing import Budget
    from zoo.serve.load.loops import Limit, Observed, Target

    Loop = Callable[[Target], Coroutine[Any, Any, Observed]]

STOP_SECONDS = 5


class Client:
    """A process that puts load on a server; a context, at whose end the process has ended.

    Args:
        target: what is sent where.
    """

    def __init__(self, target: Target) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, target), daemon=True)
        self.process.start()
        other.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.pipe.close()
        if error is None:
            self.process.join(STOP_SECONDS)
        self.process.kill()
        self.process.join()

    def closed(self, clients: int, budget: Budget) -> Observed:
        """Return what clients see that wait for their answers; see `closed_loop`."""
        return self._run(partial(closed_loop, clients=clients, budget=budget))

    def open(self, rate: float, budget: Budget, seed: int, limit: Limit | None = None) -> Observed:
        """Return what arrivals at random times see; see `open_loop`."""
        return self._run(partial(open_loop, rate=rate, budget=budget, seed=seed, limit=limit))

    def _run(self, loop: Loop) -> Observed:
        try:
            self.pipe.send(loop)
            observed: Observed = self.pipe.recv()
        except (EOFError, OSError) as error:
            self.process.join(STOP_SECONDS)
            raise ZooError(
                f"the load client ended with exit code {self.process.exitcode}, expected figures: see its "
                f"message above, if there is none the system ended it, often for want of memory"
            ) from error
        return observed


def run(coroutine: Coroutine[Any, Any, Observed]) -> Observed:
    """Return what a coroutine gives, on an event loop whose timers are exact to microseconds.

    asyncio's default waits in whole milliseconds, which would make every arrival late by half of one.
    """
    with asyncio.Runner(loop_factory=_exact_loop) as runner:
        return runner.run(coroutine)


def _exact_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def _work(pipe: Pipe, target: Target) -> None:
    """Run what comes in until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and ends this process
    while True:
        try:
            loop: Loop = pipe.recv()
        except EOFError:
            return
        pipe.send(run(loop(target)))
