"""Timings of images, batches and requests."""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass, field
from typing import Protocol, Self

UNMATCHED = "other"
"""Route name of requests that match no route."""

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


@dataclass
class Timings:
    """Timings of an item, in seconds."""

    queue_s: float = 0.0
    compute_s: float = 0.0


class Observer(Protocol):
    """Observer of batches and items, called on the event loop."""

    def batch(self, model: str, size: int, compute_s: float) -> None:
        """Observe a batch that has run."""

    def waited(self, model: str, seconds: float) -> None:
        """Observe the time that an item waited for its batch."""


@dataclass
class Trace:
    """Trace of one request, from its first byte to its last, for metrics, logs and deadlines.

    Args:
        id: request id, from the client's header `X-Request-ID` or new.
        deadline: deadline, in the time of `time.monotonic()`.
    """

    id: str
    deadline: float
    began: float = field(default_factory=time.monotonic)
    model: str = ""
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    @property
    def seconds(self) -> float:
        """Return the seconds since the first byte."""
        return time.monotonic() - self.began

    @classmethod
    def begin(cls, id_: bytes, timeout: float) -> Self:
        """Return the trace of a new request.

        Args:
            id_: request id of the client; replaced unless it is a plain one.
            timeout: seconds until the deadline.
        """
        text = id_.decode("ascii") if REQUEST_ID.fullmatch(id_) else f"{random.getrandbits(64):016x}"
        return cls(text, time.monotonic() + timeout)
