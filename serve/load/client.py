"""Load client in its own process, so that neither it nor the rest of the test slows the other.

Why not httpx2: on one core of the development machine, with 32 connections, requests of 57 kB and responses
of 11 kB, httpx2 2.16 reached 740 requests/s at 747 microseconds of CPU time each, `zoo.serve.load.http` 7,100
at 52, limited by the server, which did nothing.
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
    """Process that puts load on a server; a context that ends the process.

    Args:
        target: server and requests.
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
        """Return the observations of a closed loop; see `closed_loop`."""
        return self._run(partial(closed_loop, clients=clients, budget=budget))

    def open(self, rate: float, budget: Budget, seed: int, limit: Limit | None = None) -> Observed:
        """Return the observations of an open loop; see `open_loop`."""
        return self._run(partial(open_loop, rate=rate, budget=budget, seed=seed, limit=limit))

    def _run(self, loop: Loop) -> Observed:
        try:
            self.pipe.send(loop)
            observed: Observed = self.pipe.recv()
        except (EOFError, OSError) as error:
            self.process.join(STOP_SECONDS)
            raise ZooError(
                f"the load client ended with exit code {self.process.exitcode}, expected figures: see its "
                f"message above; without one, the system killed it, often because memory was full"
            ) from error
        return observed


def run(coroutine: Coroutine[Any, Any, Observed]) -> Observed:
    """Return the result of a coroutine, run on an event loop with microsecond timers.

    asyncio's default waits in whole milliseconds, which would delay each arrival by half of one on average.
    """
    with asyncio.Runner(loop_factory=_exact_loop) as runner:
        return runner.run(coroutine)


def _exact_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def _work(pipe: Pipe, target: Target) -> None:
    """Run loops from the pipe until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    while True:
        try:
            loop: Loop = pipe.recv()
        except EOFError:
            return
        pipe.send(run(loop(target)))
