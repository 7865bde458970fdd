from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from zoo.serve.server.core.batcher import Batcher
from zoo.serve.server.core.errors import DeadlineError, QueueFullError
from zoo.serve.server.core.timing import Timings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence


class Recorder:
    """What a batcher runs: negates numbers, keeps the batches, waits while it is told to."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[list[int]] = []
        self.seconds = seconds
        self.go = threading.Event()
        self.go.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.go.wait(5)
        time.sleep(self.seconds)
        if 13 in items:
            raise ValueError("13 is unlucky")
        return [-item for item in items]

    async def begun(self) -> None:
        """Wait until the first batch runs."""
        while not self.batches:
            await asyncio.sleep(0.001)


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def with_batcher(
    recorder: Recorder, body: Callable[[Batcher[int, int]], Coroutine[Any, Any, None]], **changes: Any
) -> None:
    """Run a coroutine function on a started batcher and stop it."""

    async def main() -> None:
        options = {"max_batch": 4, "max_wait_s": 0.01, "queue": 8, **changes}
        batcher: Batcher[int, int] = Batcher("m", recorder, **options)
        await batcher.start(lambda: None)
        try:
            await body(batcher)
        finally:
            recorder.go.set()
            await batcher.stop(5)

    asyncio.run(main())


def test_items_that_come_together_run_together_and_each_gets_its_own_result() -> None:
    recorder = Recorder()

    async def body(batcher: Batcher[int, int]) -> None:
        results = await asyncio.gather(*(batcher.submit(n, "key", deadline=soon()) for n in range(8)))
        assert results == [-n for n in range(8)]

    with_batcher(recorder, body)
    assert recorder.batches == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_items_of_different_keys_never_run_together() -> None:
    recorder = Recorder()

    async def body(batcher: Batcher[int, int]) -> None:
        await asyncio.gather(*(batcher.submit(n, n % 2, deadline=soon()) for n in range(8)))

    with_batcher(recorder, body)
    assert sorted(recorder.batches) == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_it_tells_how_long_its_batch_has_run_until_it_ends_or_fails() -> None:
    recorder = Recorder()

    async def body(batcher: Batcher[int, int]) -> None:
        assert batcher.running_s == 0
        recorder.go.clear()
        result = asyncio.ensure_future(batcher.submit(13, "key", deadline=soon()))
        await recorder.begun()
        before = batcher.running_s
        await asyncio.sleep(0.01)
        assert batcher.running_s >= before + 0.01
        recorder.go.set()
        with pytest.raises(ValueError, match="unlucky"):
            await result
        assert batcher.running_s == 0

    with_batcher(recorder, body)


def test_a_single_item_waits_for_others_no_longer_than_it_is_told() -> None:
    async def body(batcher: Batcher[int, int]) -> None:
        timings = Timings()
        await batcher.submit(1, "key", deadline=soon(), timings=timings)
        assert 0.05 <= timings.queue_s < 1
        assert timings.compute_s < 1

    with_batcher(Recorder(), body, max_wait_s=0.05)


def test_a_full_batch_does_not_wait() -> None:
    async def body(batcher: Batcher[int, int]) -> None:
        begin = time.monotonic()
        await asyncio.gather(*(batcher.submit(n, "key", deadline=soon()) for n in range(4)))
        assert time.monotonic() - begin < 1

    with_batcher(Recorder(), body, max_wait_s=3)


def test_what_has_waited_longest_goes_before_a_fuller_batch_of_another_key() -> None:
    recorder = Recorder()

    async def body(batcher: Batcher[int, int]) -> None:
        recorder.go.clear()
        first = asyncio.create_task(batcher.submit(0, "a", deadline=soon()))
        await recorder.begun()
        rest = [asyncio.create_task(batcher.submit(1, "b", deadline=soon()))]
        await asyncio.sleep(0.03)
        rest += [asyncio.create_task(batcher.submit(n, "c", deadline=soon())) for n in range(2, 6)]
        await asyncio.sleep(0.03)
        recorder.go.set()
        await asyncio.gather(first, *rest)

    with_batcher(recorder, body)
    assert recorder.batches == [[0], [1], [2, 3, 4, 5]]


def test_an_urgent_item_goes_first() -> None:
    recorder = Recorder()

    async def body(batcher: Batcher[int, int]) -> None:
        recorder.go.clear()
        tasks = [asyncio.create_task(batcher.submit(n, n, deadline=soon())) for n in range(3)]
        await recorder.begun()
        tasks.append(asyncio.create_task(batcher.submit(9, "probe", deadline=soon(), urgent=True)))
        await asyncio.sleep(0.01)
        recorder.go.set()
        await asyncio.gather(*tasks)

    with_batcher(recorder, body)
    assert recorder.batches == [[0], [9], [1], [2]]


def test_one_item_that_fails_fails_alone() -> None:
    recorder = Recorder()

    async def body(batcher: Batcher[int, int]) -> None:
        submitted = [batcher.submit(n, "key", deadline=soon()) for n in (11, 12, 13, 14)]
        results = await asyncio.gather(*submitted, return_exceptions=True)
        assert isinstance(results[2], ValueError)
        assert [results[0], results[1], results[3]] == [-11, -12, -14]

    with_batcher(recorder, body)
    assert recorder.batches == [[11, 12, 13, 14], [11], [12], [13], [14]]


def test_a_cancelled_item_leaves_the_queue() -> None:
    recorder = Recorder()

    async def body(batcher: Batcher[int, int]) -> None:
        recorder.go.clear()
        running = asyncio.create_task(batcher.submit(0, "a", deadline=soon()))
        await recorder.begun()
        waiting = [asyncio.create_task(batcher.submit(n, "a", deadline=soon())) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        assert batcher.waiting == 3
        for task in waiting[:2]:
            task.cancel()
        await asyncio.sleep(0)
        assert batcher.waiting == 1
        recorder.go.set()
        assert await running == 0
        assert await waiting[2] == -3

    with_batcher(recorder, body)
    assert recorder.batches == [[0], [3]]


def test_a_thousand_items_whose_callers_go_away_leave_nothing_behind() -> None:
    recorder = Recorder()

    async def body(batcher: Batcher[int, int]) -> None:
        recorder.go.clear()
        running = asyncio.create_task(batcher.submit(0, "a", deadline=soon()))
        await recorder.begun()
        tasks = [asyncio.create_task(batcher.submit(n, n, deadline=soon())) for n in range(1000)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert batcher.waiting == 0
        recorder.go.set()
        assert await running == 0

    with_batcher(recorder, body)
    assert recorder.batches == [[0]]


def test_an_item_that_waits_past_its_deadline_gets_an_error_and_never_runs() -> None:
    recorder = Recorder()

    async def body(batcher: Batcher[int, int]) -> None:
        recorder.go.clear()
        running = asyncio.create_task(batcher.submit(0, "a", deadline=soon()))
        await recorder.begun()
        timings = Timings()
        with pytest.raises(DeadlineError, match="waited too long"):
            await batcher.submit(1, "a", deadline=soon(0.05), timings=timings)
        assert timings.queue_s >= 0.05
        recorder.go.set()
        assert await running == 0

    with_batcher(recorder, body)
    assert recorder.batches == [[0]]


def test_an_item_that_runs_past_its_deadline_gets_an_error() -> None:
    async def body(batcher: Batcher[int, int]) -> None:
        with pytest.raises(DeadlineError, match="ran too long"):
            await batcher.submit(1, "a", deadline=soon(0.05))

    with_batcher(Recorder(seconds=0.15), body)


def test_there_is_room_for_the_queue_and_one_batch_and_no_more() -> None:
    async def body(batcher: Batcher[int, int]) -> None:
        places = [batcher.admit() for _ in range(11)]
        with pytest.raises(QueueFullError, match="has 11 images in flight and accepts 12") as caught:
            batcher.admit(2)
        assert caught.value.retry_after_s >= 1
        places.append(batcher.admit())
        with pytest.raises(QueueFullError):
            batcher.admit()
        with places[0]:
            pass
        batcher.admit()

    with_batcher(Recorder(), body)


def test_stopping_runs_what_waits_without_waiting_for_more() -> None:
    recorder = Recorder()

    async def main() -> None:
        batcher: Batcher[int, int] = Batcher("m", recorder, max_batch=4, max_wait_s=60, queue=8)
        await batcher.start(lambda: None)
        tasks = [asyncio.create_task(batcher.submit(n, n, deadline=soon())) for n in range(3)]
        await asyncio.sleep(0.01)
        begin = time.monotonic()
        await batcher.stop(5)
        assert await asyncio.gather(*tasks) == [0, -1, -2]
        assert time.monotonic() - begin < 1
        with pytest.raises(QueueFullError, match="is stopping"):
            await batcher.submit(4, 4, deadline=soon())

    asyncio.run(main())


def test_what_fails_while_it_is_prepared_is_raised() -> None:
    async def main() -> None:
        def prepare() -> None:
            raise RuntimeError("no memory")

        with pytest.raises(RuntimeError, match="no memory"):
            await Batcher("m", Recorder(), max_batch=1, max_wait_s=0, queue=1).start(prepare)

    asyncio.run(main())


def test_an_observer_hears_of_each_batch_and_of_each_wait() -> None:
    heard: list[tuple[str, Any]] = []

    class Ears:
        def batch(self, model: str, size: int, compute_s: float) -> None:
            heard.append(("batch", (model, size, compute_s > 0)))

        def waited(self, model: str, seconds: float) -> None:
            heard.append(("waited", (model, seconds >= 0)))

    async def body(batcher: Batcher[int, int]) -> None:
        batcher.observer = Ears()
        await asyncio.gather(*(batcher.submit(n, "key", deadline=soon()) for n in range(3)))

    with_batcher(Recorder(), body)
    assert heard == [("batch", ("m", 3, True)), *[("waited", ("m", True))] * 3]
