"""The charts of the page, as HTML and SVG that any width reshapes while text keeps its size.

Places are percentages of the plot; a mark is an `<svg>` of its own whose inside is in pixels. Colours are
classes of the page's style, one for each backend.
"""

from __future__ import annotations

from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from zoo.serve.bench.measurement import Times, number
from zoo.serve.bench.report.labels import GAP, HEIGHT, LINE, place_labels, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.pages.axes import Axis


class Point(NamedTuple):
    """A point of a plot with its label."""

    x: float
    y: float
    label: str
    backend: str
    """Class of the colour."""
    title: str
    """Shown under the pointer."""


class Bar(NamedTuple):
    """A bar with what stands before and behind it."""

    name: str
    backend: str
    parts: tuple[float, ...]
    """Where its solid, its light and its thin part end, in this order."""
    figure: str
    text: str
    """Behind the figure."""
    title: str


def scatter(points: Sequence[Point], x: Axis, y: Axis, titles: tuple[str, str]) -> str:
    """Return a plot of labeled points.

    Args:
        points: in the order in which they get their labels placed.
        x: across, values growing to the right.
        y: upwards.
        titles: of the axes, `x` first.
    """
    offsets = place_labels([(x.share(point.x), 1 - y.share(point.y), point.label) for point in points])
    marks = [
        _mark(point, x.share(point.x), 1 - y.share(point.y), offset)
        for point, offset in zip(points, offsets, strict=True)
    ]
    return _plot([*_grid(x, y), *marks], titles)


def curves(series: Sequence[Sequence[Point]], x: Axis, y: Axis, titles: tuple[str, str]) -> str:
    """Return a plot of lines, each labeled behind its last point.

    Args:
        series: points of each line, from left to right.
        x: across.
        y: upwards.
        titles: of the axes, `x` first.
    """
    places = [[(x.share(point.x), 1 - y.share(point.y)) for point in points] for points in series]
    parts = [
        _line(*start, *end, f"curve {escape(points[0].backend)}")
        for points, line in zip(series, places, strict=True)
        for start, end in pairwise(line)
    ]
    shifts = spread([line[-1][1] * HEIGHT for line in places])
    for points, line, shift in zip(series, places, shifts, strict=True):
        parts += [
            _mark(point._replace(label=""), *place)
            for point, place in zip(points[:-1], line[:-1], strict=True)
        ]
        parts.append(_mark(points[-1], *line[-1], (GAP, shift)))
    return _plot([*_grid(x, y), *parts], titles, "area lines")


def bars(rows: Sequence[Bar]) -> str:
    """Return horizontal bars, all to one scale that starts at zero."""
    longest = max(row.parts[-1] for row in rows)
    width = max(len(row.figure) + len(row.text) for row in rows)  # one for all, as scales depend on it
    drawn = "".join(_bar(row, longest) for row in rows)
    return f'<div class="bars" style="--value:{0.88 * width:.0f}ch">{drawn}</div>'


def percentile_bar(name: str, backend: str, times: Times) -> Bar:
    """Return the bar of a latency: solid to p50, light to p90, thin to p99."""
    parts = (times.p50, times.p90, *(() if times.p99 is None else (times.p99,)))
    p99 = "" if times.p99 is None else f", p99 {number(times.p99)}"
    title = (
        f"{name}: min {number(times.min)}, p50 {number(times.p50)}, p90 {number(times.p90)}{p99}, "
        f"mean {number(times.mean)} ms of {times.n} runs"
    )
    return Bar(name, backend, parts, number(times.p50), f" ms, p90 {number(times.p90)}{p99}", title)


def _mark(point: Point, x: float, y: float, offset: tuple[float, float] = (0, 0)) -> str:
    dx, dy = offset
    anchor, text_x = ("start", GAP) if dx > 0 else ("end", -GAP)
    leader = f'<line class="leader" x2="{text_x * 0.7:.0f}" y2="{dy:.0f}"/>' if abs(dy) > LINE else ""
    text = (
        f'<text x="{text_x:.0f}" y="{dy + 4:.0f}" text-anchor="{anchor}">{escape(point.label)}</text>'
        if point.label
        else ""
    )
    return (
        f'<svg class="mark {escape(point.backend)}" x="{x:.2%}" y="{y:.2%}" overflow="visible">'
        f'<title>{escape(point.title)}</title>{leader}<circle r="5"/>{text}</svg>'
    )


def _grid(x: Axis, y: Axis) -> list[str]:
    vertical = [
        _line(share, 0, share, 1, "grid")
        + f'<text x="{share:.2%}" y="100%" dy="18" class="tick middle">{tick:g}</text>'
        for tick, share in ((tick, x.share(tick)) for tick in x.ticks)
    ]
    horizontal = [
        _line(0, share, 1, share, "grid")
        + f'<text x="-8" y="{share:.2%}" dy="4" class="tick end">{tick:g}</text>'
        for tick, share in ((tick, 1 - y.share(tick)) for tick in y.ticks)
    ]
    return vertical + horizontal


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.2%}" y1="{y1:.2%}" x2="{x2:.2%}" y2="{y2:.2%}"/>'


def _plot(parts: Sequence[str], titles: tuple[str, str], style: str = "area") -> str:
    across, upwards = map(escape, titles)
    return (
        f'<figure class="plot"><figcaption>{upwards}</figcaption><div class="{style}">'
        f'<svg role="img" aria-label="{upwards} against {across}">{"".join(parts)}</svg></div>'
        f'<figcaption class="across">{across}</figcaption></figure>'
    )


def _bar(row: Bar, longest: float) -> str:
    styles = ("solid", "light", "thin")
    starts = (0.0, *row.parts)
    parts = "".join(
        f'<i class="{style}" style="left:{start / longest:.2%};width:{(end - start) / longest:.2%}"></i>'
        for style, start, end in zip(styles, starts, row.parts, strict=False)
    )
    value = f"<b>{escape(row.figure)}</b>{escape(row.text)}"
    return (
        f'<div class="bar {escape(row.backend)}" title="{escape(row.title)}"><span>{escape(row.name)}</span>'
        f'<span class="track">{parts}</span><span class="value">{value}</span></div>'
    )
