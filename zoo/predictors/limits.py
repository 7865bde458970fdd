"""Which shapes a model takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.errors import InvalidImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoo.predictors.artifact import Shape

ANY = 2**31 - 1
"""Largest size of a dimension that is dynamic."""

SEARCHED = 64
"""Pixels a side up to which the smallest image is looked for: twice the stride of any encoder."""


class Limits(NamedTuple):
    """The smallest and the largest batch, height, width that a model takes."""

    low: Shape = (1, 1, 1)
    high: Shape = (ANY, ANY, ANY)

    def fits(self, size: tuple[int, int]) -> bool:
        """Return whether images of (height, width) `size` are taken."""
        return all(
            low <= got <= high for low, got, high in zip(self.low[1:], size, self.high[1:], strict=True)
        )

    def check(self, size: tuple[int, int], image: tuple[int, int] | None = None) -> None:
        """Raise unless images of (height, width) `size` are taken.

        Args:
            size: at the network.
            image: of the image that was resized to it; None where none was.

        Raises:
            InvalidImageError: says which are taken.
        """
        if not self.fits(size):
            height, width = image or size
            resized = "" if image in (None, size) else f" ({size[0]} x {size[1]} at the network)"
            raise InvalidImageError(
                f"got an image of {height} x {width}{resized}, expected {self}: crop or resize it, or use a "
                f"file or backend that takes this size"
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


def smallest(takes: Callable[[tuple[int, int]], bool], limits: Limits) -> Limits:
    """Return the limits raised to the smallest square images that a network takes.

    A window that does not fit into the features of a small image is what sets it: any larger one is taken.

    Args:
        takes: whether images of a (height, width) are.
        limits: dimensions that are fixed stay; all do if `SEARCHED` pixels a side are not taken either.
    """

    def fits(side: int) -> bool:
        return takes(limits.clamp((side, side)))

    if fits(1) or not fits(SEARCHED):
        return limits
    refused, taken = 1, SEARCHED
    while taken - refused > 1:
        middle = (refused + taken) // 2
        refused, taken = (refused, middle) if fits(middle) else (middle, taken)
    return limits._replace(low=(limits.low[0], *limits.clamp((taken, taken))))
