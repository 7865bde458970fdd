"""Where the time of images and batches goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass
class Timings:
    """Where the time of an item went, in seconds."""

    queue_s: float = 0.0
    compute_s: float = 0.0


class Observer(Protocol):
    """What is told of each batch and item, on the event loop."""

    def batch(self, model: str, size: int, compute_s: float) -> None:
        """Hear of a batch that was run."""

    def waited(self, model: str, seconds: float) -> None:
        """Hear how long an item waited for its batch."""
