"""Limits of the shapes that a model accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.errors import InvalidImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoo.predictors.artifact import Shape

ANY = 2**31 - 1
"""Largest size of a dynamic dimension."""

SEARCHED = 64
"""Largest side in pixels in the search for the smallest image: twice the stride of any encoder."""

SMALLEST = 32
"""Smallest side of a tile that can be asked for, in pixels."""

OVERLAP, LARGEST = 0.25, 0.9
"""Default share of a tile's side that it shares with the next one, and the largest that can be asked for."""


class Limits(NamedTuple):
    """Smallest and largest (batch, height, width) that a model accepts."""

    low: Shape = (1, 1, 1)
    high: Shape = (ANY, ANY, ANY)

    def fits(self, size: tuple[int, int]) -> bool:
        """Return whether images of (height, width) `size` are accepted."""
        return all(
            low <= got <= high for low, got, high in zip(self.low[1:], size, self.high[1:], strict=True)
        )

    def check(self, size: tuple[int, int], image: tuple[int, int] | None = None) -> None:
        """Raise unless images of (height, width) `size` are accepted.

        Args:
            size: size at the network.
            image: size of the image before resizing, for the message; None if it was not resized.

        Raises:
            InvalidImageError: a size outside the limits, which the message gives.
        """
        if not self.fits(size):
            height, width = image or size
            resized = "" if image in (None, size) else f" ({size[0]} x {size[1]} at the network)"
            raise InvalidImageError(
                f"got an image of {height} x {width}{resized}, expected {self}: crop or resize it, or use a "
                f"file or backend that takes this size"
            )

    def raised(self, size: tuple[int, int]) -> Limits:
        """Return the limits with (height, width) `size` as the smallest, except where they are fixed."""
        return self._replace(low=(self.low[0], *self.clamp(size)))

    def clamp(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the nearest (height, width) that is accepted."""
        (_, *low), (_, *high) = self
        height, width = (min(max(least, got), most) for least, got, most in zip(low, size, high, strict=True))
        return height, width

    def __str__(self) -> str:
        return " x ".join(
            str(low) if low == high else f"{low}..{'any' if high == ANY else high}"
            for low, high in zip(self.low[1:], self.high[1:], strict=True)
        )


def limits_of_sizes(sizes: Sequence[Any]) -> Limits:
    """Return the limits of an input (B, H, W, 3).

    Args:
        sizes: dimensions of the input, at least three; those that are not integers are dynamic.
    """
    low = [size if isinstance(size, int) else 1 for size in sizes[:3]]
    high = [size if isinstance(size, int) else ANY for size in sizes[:3]]
    return Limits((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def smallest(takes: Callable[[tuple[int, int]], bool], limits: Limits) -> Limits:
    """Return the limits raised to the smallest square image that a network accepts.

    A window that does not fit into the features of a small image sets the limit: all larger images are
    accepted.

    Args:
        takes: function that returns whether a (height, width) is accepted.
        limits: limits to raise; they are unchanged where fixed, or if a side of `SEARCHED` is not accepted.
    """

    def fits(side: int) -> bool:
        return takes(limits.clamp((side, side)))

    if fits(1) or not fits(SEARCHED):
        return limits
    refused, taken = 1, SEARCHED
    while taken - refused > 1:
        middle = (refused + taken) // 2
        refused, taken = (refused, middle) if fits(middle) else (middle, taken)
    return limits.raised((taken, taken))
