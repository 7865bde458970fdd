"""Plots by matplotlib, as SVG in the colors and the font of a page, or as PNG."""

from __future__ import annotations

import re
from io import BytesIO, StringIO
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Bbox, ScaledTranslation

from zoo.bundle.bundle import replacing
from zoo.pages.html import COLORS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

WIDTH = 4.0
"""Width of a plot on a page, in inches: narrow enough for a phone."""
LIGHT = {name: light for name, (light, _) in COLORS.items()}
INK, QUIET, LINE, PAPER = (LIGHT[name] for name in ("ink", "quiet", "line", "paper"))
SERIES = tuple(
    LIGHT[name] for name in ("blue", "orange", "green", "purple", "red", "teal", "gray", "pink", "olive")
)
BAR = 0.25
"""Height of a bar with its gap, in inches."""
TITLE = 42
"""Characters in a line of a title."""
NARROW = 200.0
"""Ratio up to which a logarithmic axis has ticks at 1, 2 and 5, rather than at powers of ten."""
SHIFTS = (0, -11, 11, -22, 22, -33, 33, -44, 44)
"""Vertical offsets of a label from its point, in typographic points, in order of preference."""
_NAMES = {light: name for name, light in LIGHT.items()}
_LEFT_OUT = re.compile(
    r'<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<g( id="[^"]*")?/>| font-family: [^;"]*;?'
    r'| id="[a-z0-9.]+_\d+"| transform="rotate\(-0 [^"]*"| xmlns(:xlink)?="[^"]*"'
    r'| (width|height)="[\d.]+pt"| version="1.1"',
    re.DOTALL,
)


class Bar(NamedTuple):
    """A horizontal bar and the text beside it."""

    y: float
    name: str
    color: str
    ends: tuple[float, ...]
    """Ends of its solid part, its light part and its thin part."""
    text: str
    bold: str = ""


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure, with its size in inches."""
    return Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)


def finish(axes: Axes, title: str, pad: float = 6.0) -> None:
    """Apply the common style and a title to axes; `pad` is the distance of the title in points."""
    axes.set_title(fill(title, TITLE), loc="left", pad=pad, fontsize=9.5, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(which="both", length=0, colors=QUIET, labelsize=9)
    axes.xaxis.label.set(color=QUIET, fontsize=9)
    axes.yaxis.label.set(color=QUIET, fontsize=9)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)


def logarithmic(axes: Axes, name: str) -> None:
    """Make the `x` or the `y` axis logarithmic, with plain numbers; call it after drawing."""
    axes.set(**{f"{name}scale": "log"})
    low, high = axes.dataLim.get_points()[:, "xy".index(name)]
    axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < NARROW * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def legend(axes: Axes) -> None:
    """Add a legend below the axes."""
    below = ScaledTranslation(0, -0.5 if axes.get_xlabel() else -0.25, axes.figure.dpi_scale_trans)
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=axes.transAxes + below,
        borderaxespad=0,
        ncols=3,
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        handlelength=1.2,
        columnspacing=1.2,
    )


def draw_bars(axes: Axes, bars: Sequence[Bar], title: str) -> None:
    """Draw bars on a scale that starts at zero, each with its name on the left and its text on the right."""
    for bar in bars:
        axes.barh(bar.y, bar.ends[0], 0.7, color=bar.color)
        if len(bar.ends) > 1:
            axes.barh(bar.y, bar.ends[1] - bar.ends[0], 0.7, left=bar.ends[0], color=bar.color, alpha=0.35)
            axes.hlines(bar.y, bar.ends[1], bar.ends[-1], color=bar.color, linewidth=1)
        beside: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 9, "color": INK}
        text = axes.annotate(bar.text, (bar.ends[-1], bar.y), (5, 0), **beside)
        axes.annotate(bar.bold, (1, 0.5), (6, 0), xycoords=text, fontweight="bold", **beside)
    finish(axes, title)
    axes.set_yticks([bar.y for bar in bars], [bar.name for bar in bars], color=INK)
    axes.set_ylim(bars[-1].y + 0.6, bars[0].y - 0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.02 * max(bar.ends[-1] for bar in bars) or 1)


def bars(entries: Sequence[Bar], title: str) -> Markup:
    """Return a bar chart for a page."""
    figure = new_figure(BAR * (entries[-1].y - entries[0].y) + 0.8)
    draw_bars(figure.subplots(), entries, title)
    return svg(figure)


def label(figure: Figure, axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Label points, (x, y, text), so that labels overlap neither each other nor points where possible."""
    figure.draw_without_rendering()  # fixes the layout before labels are added
    figure.set_layout_engine("none")
    places = axes.transData.transform([point[:2] for point in points])
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in places]
    for x, y, text in points:
        options = [
            axes.annotate(
                text,
                (x, y),
                (7 * side, shift),
                textcoords="offset points",
                va="center",
                ha="left" if side > 0 else "right",
                fontsize=8.5,
                color=INK,
            )
            for shift in SHIFTS
            for side in (1, -1)
        ]
        boxes = [option.get_window_extent() for option in options]
        costs = [
            box.count_overlaps(taken) + 9 * (box.x0 < 0 or box.x1 > figure.bbox.x1 or box.y0 < axes.bbox.y0)
            for box in boxes
        ]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        place = options[best].get_position()
        if place[1]:
            line = {"arrowstyle": "-", "color": QUIET, "linewidth": 0.5, "shrinkA": 0}
            axes.annotate("", (x, y), place, textcoords="offset points", arrowprops=line)
        for option in (*options[:best], *options[best + 1 :]):
            option.remove()


def svg(figure: Figure) -> Markup:
    """Return a figure as inline SVG, with its first title as accessible name."""
    drawn = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "zoo"}):
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    text = drawn.getvalue()
    text = _LEFT_OUT.sub("", text[text.index("<svg") :])
    text = re.sub(rf"(?<=: )({'|'.join(_NAMES)})", lambda found: f"var(--{_NAMES[found[0]]})", text)
    title = escape(figure.axes[0].get_title(loc="left"))
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1))


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(png(figure, 180))


def png(figure: Figure, dpi: int) -> bytes:
    """Return a figure as PNG."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
