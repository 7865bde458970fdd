"""Micro-batching of items from many callers in one thread; independent of HTTP and models.

Callers wait on the event loop. The thread takes the next batch directly from the queue, without a round trip
through the event loop, so that it does not idle between batches.
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
"""Weight of the newest batch in the moving average of seconds per item."""

EXPECTED_ITEM_S = 0.1
"""Assumed seconds per item before the first batch."""


@dataclass(eq=False)
class Job(Generic[Item, Result]):
    """Item in the queue."""

    item: Item
    key: Hashable
    arrived: float
    future: asyncio.Future[Result]
    urgent: bool = False
    timings: Timings = field(default_factory=Timings)
    taken: bool = False
    """Whether its batch has started."""

    @property
    def since(self) -> float:
        """Return the time at which it began to wait, which determines the order."""
        return -math.inf if self.urgent else self.arrived


class Batcher(Generic[Item, Result]):
    """Runs items with the same key in batches, oldest first.

    All methods except `start`, `stop` and `running_s` must be called on the event loop of `start`.

    Args:
        name: name of the thread, and of the model for the observer.
        run: function from a batch to one result per item, called in the batcher's thread. If it raises, the
            items run one by one, and only those that fail get the error.
        max_batch: maximum number of items per batch.
        max_wait_s: time that an item waits for others while nothing runs.
        queue: number of items that may wait beyond a full batch.
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
        """Return the number of items that wait for their batch."""
        with self._changed:
            return sum(map(len, self._queues.values()))

    @property
    def running_s(self) -> float:
        """Return the seconds that the current batch has run, 0 without one; safe in any thread."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    async def start(self, prepare: Callable[[], None]) -> None:
        """Start the thread and wait until it has called `prepare`.

        Raises:
            Exception: the exception of `prepare`; the thread has ended.
        """
        self._loop = asyncio.get_running_loop()
        prepared: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._work, args=(prepare, prepared), name=f"batcher {self.name}", daemon=True
        )
        self._thread.start()
        await prepared

    async def stop(self, timeout_s: float) -> None:
        """Run the waiting items without waiting for more, and end the thread.

        Args:
            timeout_s: maximum time to wait; a batch that runs longer is abandoned.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify()
        until = time.monotonic() + timeout_s
        while self._thread is not None and self._thread.is_alive() and time.monotonic() < until:
            await asyncio.sleep(0.005)  # results still arrive on the event loop

    def admit(self, count: int = 1) -> Place:
        """Reserve places for some items; use `with` around all work for them.

        Raises:
            QueueFullError: the queue is full.
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
        """Return the result of an item that has a `Place`.

        If the caller is canceled, the item leaves the queue.

        Args:
            item: item to run.
            key: key of the batch; only items with the same key run together.
            deadline: deadline, in the time of `time.monotonic()`.
            timings: timings to fill.
            urgent: whether to run it first.

        Raises:
            DeadlineError: there is no result at `deadline`.
            QueueFullError: `stop` was called.
            Exception: the exception of `run` for this item.
        """
        if self._stopping:
            raise QueueFullError(f"{self.name} is stopping: try again in 1 s", 1)
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
            # the thread wakes up once the oldest item has waited long enough
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
        """Run batches until the queues are empty and `stop` was called."""
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
            except RuntimeError:  # the event loop is closed: nothing waits any more
                return

    def _next(self) -> list[Job[Item, Result]]:
        """Return the next batch once it is full or has waited long enough; empty to end."""
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
        """Return the queues that can run and, if none can, the seconds until one can; None without any."""
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
        """Return the result of each item, or its own error."""
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
            if job.future.done():  # canceled, or too late
                continue
            if isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)
