"""Items of many callers, run together by one thread: knows neither HTTP nor models.

Callers wait on the event loop; the thread takes the next batch straight from the queue, without a way over
the event loop, so that nothing lies idle between two batches.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from zoo.serve.server.core.admission import Places
from zoo.serve.server.core.errors import DeadlineError, QueueFullError
from zoo.serve.server.core.timing import Timings

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from zoo.serve.server.core.admission import Place
    from zoo.serve.server.core.timing import Observer

Item = TypeVar("Item")
Result = TypeVar("Result")

SMOOTHING = 0.1
"""Weight of the newest batch in the seconds that an item takes."""

EXPECTED_ITEM_S = 0.1
"""Seconds that an item takes, until one was run."""


@dataclass(eq=False)
class Job(Generic[Item, Result]):
    """An item in the queue."""

    item: Item
    key: Hashable
    arrived: float
    future: asyncio.Future[Result]
    urgent: bool = False
    timings: Timings = field(default_factory=Timings)
    taken: bool = False
    """Whether its batch runs or has run."""

    @property
    def since(self) -> float:
        """Return when it began to wait, for whose turn it is."""
        return -math.inf if self.urgent else self.arrived


class Batcher(Generic[Item, Result]):
    """Runs items in batches of one key, the oldest first.

    All functions but `start`, `stop` and `running_s` are for the event loop on which it was started.

    Args:
        name: of the thread, and what the observer is told.
        run: one result for each item of a batch; called in the batcher's thread. If it raises, the items are
            run one by one, and only those that fail get the error.
        max_batch: items that run together.
        max_wait_s: how long an item waits for others while nothing runs.
        queue: items that may wait beyond a full batch.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item]], Iterable[Result]],
        *,
        max_batch: int,
        max_wait_s: float,
        queue: int,
    ) -> None:
        self.name = name
        self.max_batch = max_batch
        self.places = Places(name, queue + max_batch)
        self.observer: Observer | None = None
        self._run = run
        self._max_wait_s = max_wait_s
        self._item_s = EXPECTED_ITEM_S
        self._queues: dict[Hashable, deque[Job[Item, Result]]] = {}  # none is empty
        self._changed = threading.Condition()
        self._idle = False
        self._began: float | None = None
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Return how many items wait for their batch."""
        with self._changed:
            return sum(map(len, self._queues.values()))

    @property
    def running_s(self) -> float:
        """Return how long the batch that runs now has run, 0 if none does; any thread may ask."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    async def start(self, prepare: Callable[[], None]) -> None:
        """Start the thread and wait until it has called `prepare`.

        Raises:
            Exception: what `prepare` raised; the thread has ended.
        """
        self._loop = asyncio.get_running_loop()
        prepared: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._work, args=(prepare, prepared), name=f"batcher {self.name}", daemon=True
        )
        self._thread.start()
        await prepared

    async def stop(self, timeout_s: float) -> None:
        """Run what waits, without waiting for more, and end the thread.

        Args:
            timeout_s: how long that may take; a batch that runs longer is left to its fate.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify()
        until = time.monotonic() + timeout_s
        while self._thread is not None and self._thread.is_alive() and time.monotonic() < until:
            await asyncio.sleep(0.005)  # results still come to the event loop

    def admit(self, count: int = 1) -> Place:
        """Return room for some items, to be used with `with` around all that is done for them.

        Raises:
            QueueFullError: there is none.
        """
        return self.places.admit(count, self._item_s)

    async def submit(
        self,
        item: Item,
        key: Hashable,
        *,
        deadline: float,
        timings: Timings | None = None,
        urgent: bool = False,
    ) -> Result:
        """Return the result of an item for which there is a `Place`.

        If the caller is cancelled, the item leaves the queue.

        Args:
            item: one of a batch.
            key: only items of one key run together.
            deadline: of `time.monotonic()`.
            timings: filled.
            urgent: whether it goes first.

        Raises:
            DeadlineError: no result at `deadline`.
            QueueFullError: `stop` was called.
            Exception: what `run` raised for this item.
        """
        if self._stopping:
            raise QueueFullError(f"{self.name} is being stopped: try again in 1 s", 1)
        now = time.monotonic()
        loop = asyncio.get_running_loop()
        job: Job[Item, Result] = Job(item, key, now, loop.create_future(), urgent)
        self._put(job)
        timer = loop.call_later(deadline - now, self._expire, job, deadline - now)
        try:
            return await job.future
        finally:
            timer.cancel()
            self._withdraw(job)
            if timings is not None:
                timings.compute_s = job.timings.compute_s
                timings.queue_s = job.timings.queue_s or time.monotonic() - now

    def _put(self, job: Job[Item, Result]) -> None:
        with self._changed:
            queue = self._queues.setdefault(job.key, deque())
            if job.urgent:
                queue.appendleft(job)
            else:
                queue.append(job)
            # the thread wakes by itself when the oldest has waited long enough
            if self._idle or job.urgent or len(queue) == self.max_batch:
                self._changed.notify()

    def _withdraw(self, job: Job[Item, Result]) -> None:
        if job.taken:
            return
        with self._changed:
            queue = self._queues.get(job.key, deque())
            if job in queue:
                queue.remove(job)
            if not queue:
                self._queues.pop(job.key, None)

    def _expire(self, job: Job[Item, Result], seconds: float) -> None:
        if not job.future.done():
            where = "ran too long" if job.taken else "waited too long"
            job.future.set_exception(
                DeadlineError(f"the image {where} in {self.name}, {seconds:.1f} s were left: try again later")
            )

    def _work(self, prepare: Callable[[], None], prepared: asyncio.Future[None]) -> None:
        """Run batches until there are none and `stop` was called."""
        assert self._loop is not None
        try:
            prepare()
        except Exception as error:
            self._loop.call_soon_threadsafe(prepared.set_exception, error)
            return
        self._loop.call_soon_threadsafe(prepared.set_result, None)
        while jobs := self._next():
            begin = time.monotonic()
            outcomes = self._outcomes([job.item for job in jobs])
            seconds = time.monotonic() - begin
            try:
                self._loop.call_soon_threadsafe(self._deliver, jobs, outcomes, begin, seconds)
            except RuntimeError:  # the event loop is closed: nobody waits any more
                return

    def _next(self) -> list[Job[Item, Result]]:
        """Return the next batch when it is full or has waited long enough; empty to end."""
        with self._changed:
            while True:
                if not self._queues and self._stopping:
                    return []
                ready, wait_s = self._ready()
                if ready:
                    return self._take(min(ready, key=lambda queue: queue[0].since))
                self._idle = wait_s is None
                self._changed.wait(wait_s)
                self._idle = False

    def _ready(self) -> tuple[list[deque[Job[Item, Result]]], float | None]:
        """Return the queues that can run, and if none can, the seconds until one will; None without any."""
        if not self._queues:
            return [], None
        now = time.monotonic()
        limit = now if self._stopping else now - self._max_wait_s
        queues = self._queues.values()
        ready = [queue for queue in queues if len(queue) >= self.max_batch or queue[0].since <= limit]
        return ready, min(queue[0].since for queue in queues) - limit

    def _take(self, queue: deque[Job[Item, Result]]) -> list[Job[Item, Result]]:
        jobs = [queue.popleft() for _ in range(min(len(queue), self.max_batch))]
        if not queue:
            del self._queues[jobs[0].key]
        for job in jobs:
            job.taken = True
        return jobs

    def _outcomes(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        """Return the result of each item, or the error that it raises by itself."""
        self._began = time.monotonic()
        try:
            results = list(self._run(items))
            if len(results) != len(items):
                raise ValueError(f"got {len(results)} results of {len(items)} items, expected one of each")
            return results
        except Exception as error:
            if len(items) == 1:
                return [error]
            return [self._outcomes([item])[0] for item in items]
        finally:
            self._began = None

    def _deliver(
        self,
        jobs: Sequence[Job[Item, Result]],
        outcomes: Sequence[Result | Exception],
        begin: float,
        seconds: float,
    ) -> None:
        self._item_s += SMOOTHING * (seconds / len(jobs) - self._item_s)
        if self.observer is not None:
            self.observer.batch(self.name, len(jobs), seconds)
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.timings.queue_s, job.timings.compute_s = begin - job.arrived, seconds
            if self.observer is not None:
                self.observer.waited(self.name, job.timings.queue_s)
            if job.future.done():  # cancelled, or too late
                continue
            if isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)
