"""Which shapes a model takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.predictors.artifact import Shape

ANY = 2**31 - 1
"""Largest size of a dimension that is dynamic."""


class Limits(NamedTuple):
    """The smallest and the largest batch, height, width that a model takes."""

    low: Shape = (1, 1, 1)
    high: Shape = (ANY, ANY, ANY)

    def fits(self, size: tuple[int, int]) -> bool:
        """Return whether images of (height, width) `size` are taken."""
        return all(
            low <= got <= high for low, got, high in zip(self.low[1:], size, self.high[1:], strict=True)
        )

    def clamp(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the nearest (height, width) that is taken."""
        (_, *low), (_, *high) = self
        height, width = (min(max(least, got), most) for least, got, most in zip(low, size, high, strict=True))
        return height, width

    def __str__(self) -> str:
        return " x ".join(
            str(low) if low == high else f"{low}..{'any' if high == ANY else high}"
            for low, high in zip(self.low[1:], self.high[1:], strict=True)
        )


def limits_of_sizes(sizes: Sequence[Any]) -> Limits:
    """Return the limits of an input (B, H, W, 3) whose dynamic dimensions are no numbers.

    Args:
        sizes: of the input, at least three.
    """
    low = [size if isinstance(size, int) else 1 for size in sizes[:3]]
    high = [size if isinstance(size, int) else ANY for size in sizes[:3]]
    return Limits((low[0], low[1], low[2]), (high[0], high[1], high[2]))
