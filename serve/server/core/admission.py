"""Admission control: limits the requests in flight before any work is done for them."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from zoo.serve.server.core.errors import QueueFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Place:
    """Reservation for some items, from `Places.admit` until the `with` block ends."""

    def __init__(self, release: Callable[[int], None], count: int) -> None:
        self._release = release
        self._count = count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._release(self._count)
        self._count = 0


class Places:
    """Limit on the items in flight, for one event loop.

    Args:
        name: name of the model, for the message.
        limit: maximum number of items.
    """

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.taken = 0

    def admit(self, count: int, item_s: float) -> Place:
        """Reserve places for some items.

        Args:
            count: number of items.
            item_s: seconds per item, from which the time to retry is computed.

        Raises:
            QueueFullError: too few places are left.
        """
        if self.taken + count > self.limit:
            retry_after_s = max(1, math.ceil(self.taken * item_s))
            raise QueueFullError(
                f"{self.name} has {self.taken} images in flight and accepts {self.limit}: try again in "
                f"{retry_after_s} s",
                retry_after_s,
            )
        self.taken += count
        return Place(self._release, count)

    def _release(self, count: int) -> None:
        self.taken -= count


class Budget:
    """Memory limit for the bodies and decoded images of all requests, for one event loop.

    Args:
        limit: maximum number of bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def hold(self, count: int) -> None:
        """Count bytes as in use until `release`.

        Raises:
            QueueFullError: the limit would be exceeded.
        """
        if self.held + count > self.limit:
            raise QueueFullError(
                f"requests in flight take {self.held} bytes, the limit is {self.limit}: try again in 1 s", 1
            )
        self.held += count

    @contextmanager
    def holding(self, count: int) -> Iterator[None]:
        """Count bytes as in use in the block.

        Raises:
            QueueFullError: the limit would be exceeded.
        """
        self.hold(count)
        try:
            yield
        finally:
            self.release(count)

    def release(self, count: int) -> None:
        """Count bytes as free again."""
        self.held -= count
