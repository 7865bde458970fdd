"""Timings of images and batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


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
