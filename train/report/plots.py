"""The curves of a run as SVG that any width reshapes, while text and lines keep their size.

Places are in thousandths of the plot; ticks and names are HTML beside it. Colors are classes of the page.
"""

from __future__ import annotations

import math
from html import escape
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from zoo.pages.axes import Axis, axis_from_zero, linear_axis, logarithmic_axis

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SIDE = 1000
COLORS = 9
"""Of the page's style, `c0` and on."""
MOST_POINTS = 400
MOST_TICKS = 8
WIDE = 30.0
"""Curves whose largest value is so many times their smallest are shown on a logarithmic axis."""


class Curve(NamedTuple):
    """A figure by step."""

    name: str
    points: tuple[tuple[float, float], ...]
    """(step, value), finite."""


def plot(
    title: str,
    curves: Sequence[Curve],
    phases: Mapping[str, int],
    axis_of: Callable[[Sequence[float]], Axis],
    *,
    dots: bool = False,
) -> str:
    """Return a plot of curves with the phases of the run above it; nothing if no curve has a point.

    Args:
        title: above it.
        curves: at least one; one with a single point is a dot.
        phases: steps by phase.
        axis_of: returns the axis of all values, `plain_axis` or `loss_axis`.
        dots: whether each point is marked.
    """
    shown = [curve._replace(points=thinned(curve.points)) for curve in curves if curve.points]
    if not shown:
        return ""
    steps = sum(phases.values())
    y = axis_of([value for curve in shown for _, value in curve.points])
    colors = [f"c{number % COLORS}{' again' if number >= COLORS else ''}" for number in range(len(shown))]
    drawn = "".join(
        _path(_places(curve, y, steps), color, dots=dots) for curve, color in zip(shown, colors, strict=True)
    )
    legend = "".join(map(_key, shown, colors))
    scale = ", logarithmic" if y.logarithmic else ""
    return (
        f'<figure class="plot"><figcaption><h3>{escape(title)}{scale}</h3><div class="legend">{legend}</div>'
        f'</figcaption>{_strip(phases, steps)}<div class="area">'
        f'<svg role="img" aria-label="{escape(title)} by step" viewBox="0 0 {SIDE} {SIDE}" '
        f'preserveAspectRatio="none">{_grid(y)}{_borders(phases, steps)}{drawn}</svg>{_ticks(y, steps)}'
        f"</div></figure>"
    )


def plain_axis(values: Sequence[float]) -> Axis:
    """Return an axis from zero, or around the values if some are negative."""
    if min(values) < 0 or max(values) == 0:
        return linear_axis(values, least=1e-6)
    return axis_from_zero(values)


def loss_axis(values: Sequence[float]) -> Axis:
    """Return a plain axis, or a logarithmic one if the values differ much."""
    positive = [value for value in values if value > 0]
    if not positive or min(values) < 0:
        return plain_axis(values)
    if max(positive) / min(positive) <= WIDE or len(positive) < len(values) / 2:
        return axis_from_zero(values)
    axis = logarithmic_axis(positive)
    decades = tuple(tick for tick in axis.ticks if math.log10(tick) % 1 < 1e-9)
    return axis._replace(ticks=decades) if len(axis.ticks) > MOST_TICKS else axis


def thinned(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return the points, or means of so many neighbors that no more than `MOST_POINTS` are left."""
    size = math.ceil(len(points) / MOST_POINTS)
    blocks = [points[start : start + size] for start in range(0, len(points), max(1, size))]
    return tuple(
        (sum(x for x, _ in each) / len(each), sum(y for _, y in each) / len(each)) for each in blocks
    )


def _key(curve: Curve, color: str) -> str:
    """Return the entry of a curve in the legend, with its last value."""
    value = f"<b>{curve.points[-1][1]:.3g}</b>"
    return f'<span class="key {color}"><i></i>{escape(curve.name)} {value}</span>'


def _places(curve: Curve, y: Axis, steps: int) -> list[tuple[float, float, float]]:
    """Return place across, place downwards and value of each point that the axis can show."""
    return [
        (SIDE * step / steps, SIDE * (1 - y.share(value)), value)
        for step, value in curve.points
        if not y.logarithmic or value > 0
    ]


def _path(places: Sequence[tuple[float, float, float]], color: str, *, dots: bool) -> str:
    line = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y, _ in places) if places else ""
    marks = "".join(f"M{x:.1f} {y:.1f}h0" for x, y, _ in places) if dots or len(places) == 1 else ""
    dotted = f'<path class="dots {color}" d="{marks}"/>' if marks else ""
    return f'<path class="{color}" d="{line}"/>{dotted}'


def _grid(y: Axis) -> str:
    lines = (SIDE * (1 - y.share(tick)) for tick in y.ticks)
    return "".join(f'<path class="grid" d="M0 {at:.1f}H{SIDE}"/>' for at in lines)


def _borders(phases: Mapping[str, int], steps: int) -> str:
    ends = [end for end in accumulate(phases.values()) if end < steps]
    return "".join(f'<path class="border" d="M{SIDE * end / steps:.1f} 0V{SIDE}"/>' for end in ends)


def _ticks(y: Axis, steps: int) -> str:
    upwards = "".join(
        f'<span class="y" style="top:{1 - y.share(tick):.2%}">{tick:g}</span>' for tick in y.ticks
    )
    across = "".join(
        f'<span class="x" style="left:{tick / steps:.2%}">{tick:,.0f}</span>'
        for tick in axis_from_zero([steps]).ticks
        if tick <= steps
    )
    return upwards + across


def _strip(phases: Mapping[str, int], steps: int) -> str:
    """Return the names of the phases over their steps, nothing for a single one."""
    if len(phases) < 2:
        return ""
    names = "".join(
        f'<span style="width:{count / steps:.2%}" title="{name}: {count:,} steps">{name}</span>'
        for name, count in ((escape(name), count) for name, count in phases.items())
    )
    return f'<div class="phases">{names}</div>'
