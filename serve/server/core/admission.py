"""Room for what is in hand: more is refused before any work is done for it."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from zoo.serve.server.core.errors import QueueFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Place:
    """Room for some items, from `Places.admit` until the block of `with` ends."""

    def __init__(self, release: Callable[[int], None], count: int) -> None:
        self._release = release
        self._count = count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._release(self._count)
        self._count = 0


class Places:
    """Counts what is in hand; for one event loop.

    Args:
        name: of what has the items in hand, for the message.
        limit: how many there may be.
    """

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.taken = 0

    def admit(self, count: int, item_s: float) -> Place:
        """Return room for some items.

        Args:
            count: how many.
            item_s: seconds that one takes, from which follows when to try again.

        Raises:
            QueueFullError: there is none.
        """
        if self.taken + count > self.limit:
            retry_after_s = max(1, math.ceil(self.taken * item_s))
            raise QueueFullError(
                f"{self.name} has {self.taken} images in hand and takes {self.limit}: try again in "
                f"{retry_after_s} s",
                retry_after_s,
            )
        self.taken += count
        return Place(self._release, count)

    def _release(self, count: int) -> None:
        self.taken -= count


class Budget:
    """Bytes that bodies and decoded images of all requests may take together; for one event loop.

    Args:
        limit: more are refused.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def hold(self, count: int) -> None:
        """Count some bytes as in use, until `release`.

        Raises:
            QueueFullError: they would be too many.
        """
        if self.held + count > self.limit:
            raise QueueFullError(
                f"requests in work take {self.held} bytes, the limit is {self.limit}: try again in 1 s", 1
            )
        self.held += count

    @contextmanager
    def holding(self, count: int) -> Iterator[None]:
        """Count some bytes as in use for the block.

        Raises:
            QueueFullError: they would be too many.
        """
        self.hold(count)
        try:
            yield
        finally:
            self.release(count)

    def release(self, count: int) -> None:
        """Count some bytes as free again."""
        self.held -= count
