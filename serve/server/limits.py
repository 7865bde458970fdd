"""Which shapes an exported file takes; each runtime tells in its own way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.predictors.artifact import Shape
    from zoo.predictors.base import Predictor

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


def limits_of(predictor: Predictor) -> Limits:
    """Return the shapes that a predictor takes."""
    read = READERS.get(predictor.backend)
    return Limits() if read is None else read(predictor)


def _of_session(predictor: Any) -> Limits:
    return _of_sizes(predictor.session.get_inputs()[0].shape)


def _of_openvino(predictor: Any) -> Limits:
    sizes = predictor.model.input(0).partial_shape
    return _of_sizes([None if size.is_dynamic else size.get_length() for size in sizes])


def _of_engine(predictor: Any) -> Limits:
    return Limits(predictor.info.profile.min, predictor.info.profile.max)


def _of_sizes(sizes: list[Any]) -> Limits:
    """Return the limits of an input whose dynamic dimensions have no number."""
    low = [size if isinstance(size, int) else 1 for size in sizes[:3]]
    high = [size if isinstance(size, int) else ANY for size in sizes[:3]]
    return Limits((low[0], low[1], low[2]), (high[0], high[1], high[2]))


READERS: dict[str, Callable[[Any], Limits]] = {
    "ort": _of_session,
    "openvino": _of_openvino,
    "trt": _of_engine,
}
