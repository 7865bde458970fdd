"""Pictures of a run: its curves, and predictions beside labels."""

from __future__ import annotations

import math
from io import BytesIO
from itertools import compress, cycle
from statistics import fmean
from textwrap import fill
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from zoo.bundle.bundle import replacing
from zoo.data.source import evenly_spaced
from zoo.data.tags import tags_of_mask
from zoo.evaluation.figures import MASKS
from zoo.evaluation.tag_metrics import THRESHOLD
from zoo.image_format import displayed
from zoo.pages.overlay import triptych
from zoo.pages.plots import QUIET, SERIES, finish, legend, logarithmic, new_figure, png
from zoo.predictors.tags import TagPredictor
from zoo.train.runs.log import BY_CONFIDENCE, FILTER, read_log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from zoo.data.source import Source
    from zoo.evaluation.figures import Figures
    from zoo.predictors.base import Predictor
    from zoo.train.method import Phase
    from zoo.train.runs.log import Row

PREVIEW_IMAGES = 4
STYLES = tuple((color, line) for line in ("-", "--") for color in SERIES)
MOST_POINTS = 400
WIDE = 30.0
"""Ratio of the largest to the smallest value above which an axis is logarithmic."""
NAME = 46
"""Number of characters of phase names that fit above a plot."""


def write_preview(path: Path, predictor: Predictor | TagPredictor, source: Source) -> None:
    """Write a picture of `val` images; see `preview`."""
    with replacing(path) as temporary:
        temporary.write_bytes(preview(predictor, source))


def preview(predictor: Predictor | TagPredictor, source: Source, dpi: int = 180) -> bytes:
    """Return a PNG of `val` images: image, truth, prediction; of a classifier, with the names of classes."""
    if isinstance(predictor, TagPredictor):
        return _tag_preview(predictor, source, dpi)
    rows = []
    for id_ in evenly_spaced(source.ids("val"), PREVIEW_IMAGES):
        image = source.read_image(id_)
        rows.append((displayed(image, source.format), source.read_mask(id_), predictor.predict(image)))
    buffer = BytesIO()
    Image.fromarray(triptych(rows, source.classes)).save(buffer, format="PNG")
    return buffer.getvalue()


def _tag_preview(predictor: TagPredictor, source: Source, dpi: int) -> bytes:
    """Return a PNG of `val` images, each above its true and predicted classes."""
    names = source.classes.names
    ids = evenly_spaced(source.ids("val"), PREVIEW_IMAGES)
    figure = new_figure(5, 4 * len(ids))
    for axes, id_ in zip(figure.subplots(1, len(ids), squeeze=False)[0], ids, strict=True):
        image = source.read_image(id_)
        truth = tags_of_mask(source.read_mask(id_), len(names))
        rows = (("shows", truth), ("called seen", predictor.predict(image) > THRESHOLD))
        texts = [f"{title}: {', '.join(compress(names, tags)) or 'nothing'}" for title, tags in rows]
        axes.imshow(displayed(image, source.format))
        axes.set_xlabel("\n".join(fill(text, 40) for text in texts), loc="left")
        axes.set(xticks=[], yticks=[], anchor="N")
    return png(figure, dpi)


def write_curves(path: Path, log: Path, phases: tuple[Phase, ...], figures: Figures = MASKS) -> None:
    """Write a plot of the metrics on `val` and of the loss terms, by step."""
    lengths = {phase.name: phase.steps for phase in phases}
    with replacing(path) as temporary:
        temporary.write_bytes(curves(read_log(log), lengths, figures))


def curves(rows: Sequence[Row], phases: Mapping[str, int], figures: Figures = MASKS, dpi: int = 180) -> bytes:
    """Return a PNG of the metrics on `val` and of the loss terms, by step.

    Args:
        rows: rows of a log.
        phases: number of steps of each phase.
        figures: names of the metrics.
        dpi: pixels per inch.
    """
    figure = new_figure(3.4, 11)
    for axes, panel in zip(figure.subplots(1, 2), panels(rows, figures, "val"), strict=False):
        draw(axes, panel, phases)
    return png(figure, dpi)


QUALITY = {
    "kept": "kept",
    "accuracy": "accuracy of kept",
    f"{BY_CONFIDENCE}accuracy": "accuracy, by confidence",
    "recall": "errors caught",
    f"{BY_CONFIDENCE}recall": "errors caught, by confidence",
}
"""Names of the curves of pseudo-label metrics."""


class Panel(NamedTuple):
    """A plot of curves, each with points (step, value), by name."""

    title: str
    curves: dict[str, list[tuple[float, float]]]
    dots: bool = False
    """Whether to mark each point."""
    may_be_logarithmic: bool = False
    """Whether to use a logarithmic axis if the values differ much."""


def panels(rows: Sequence[Row], figures: Figures, split: str) -> list[Panel]:
    """Return the plots for which a log has points: metrics, loss terms, learning rate, speed."""
    losses = dict.fromkeys(key for row in rows for key in row if key.startswith("loss/"))
    found = [
        Panel(
            f"On {split}",
            {name: _points(rows, f"val/{key}") for key, name in figures.overall.items()},
            dots=True,
        ),
        Panel(
            "Loss terms, weighted",
            {key.removeprefix("loss/"): _points(rows, key) for key in losses},
            may_be_logarithmic=True,
        ),
        Panel(
            "Pseudo-labels, on hidden masks",
            {name: _points(rows, f"{FILTER}{key}") for key, name in QUALITY.items()},
            dots=True,
        ),
        Panel("Learning rate", {"lr": _points(rows, "lr")}),
        Panel("Images/s since the start", {"images/s": _points(rows, "images_per_s")}),
    ]
    shown = (
        each._replace(curves={name: points for name, points in each.curves.items() if points})
        for each in found
    )
    return [each for each in shown if each.curves]


def draw(axes: Axes, panel: Panel, phases: Mapping[str, int]) -> None:
    """Draw curves with their last values, below the names of the run's phases.

    Args:
        axes: axes to draw on.
        panel: plot to draw.
        phases: number of steps of each phase.
    """
    values = [value for points in panel.curves.values() for _, value in points]
    wide = panel.may_be_logarithmic and _is_wide(values)
    for (name, points), (color, line) in zip(panel.curves.items(), cycle(STYLES)):
        shown = thinned([point for point in points if point[1] > 0 or not wide])
        mark = "o" if panel.dots or len(shown) == 1 else None
        axes.plot(
            [step for step, _ in shown],
            [value for _, value in shown],
            line,
            color=color,
            linewidth=1.3,
            marker=mark,
            markersize=4,
            label=f"{name} {points[-1][1]:.3g}",
        )
    steps = sum(phases.values())
    start = 0
    for name, count in phases.items() if len(phases) > 1 else ():
        axes.axvline(start, color=QUIET, linestyle=":", linewidth=1)
        text = shortened(name, round(NAME * count / steps))
        axes.text(start, 1.01, f" {text}", transform=axes.get_xaxis_transform(), fontsize=8, color=QUIET)
        start += count
    finish(axes, panel.title + ", logarithmic" * wide, pad=16)  # leaves room for the phases
    if wide:
        logarithmic(axes, "y")
    elif min(values) >= 0:
        axes.set_ylim(0, 1.05 * max(values) or 1)
    axes.set(xlabel="step", xlim=(0, steps))
    legend(axes)


def _is_wide(values: Sequence[float]) -> bool:
    """Return whether values differ by more than `WIDE`, most of them are positive and none is negative."""
    positive = [value for value in values if value > 0]
    return min(values) >= 0 and 2 * len(positive) >= len(values) and max(positive) > WIDE * min(positive)


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points, averaged over neighbors so that at most `MOST_POINTS` are left."""
    size = max(1, math.ceil(len(points) / MOST_POINTS))
    blocks = [points[start : start + size] for start in range(0, len(points), size)]
    return [(fmean(x for x, _ in block), fmean(y for _, y in block)) for block in blocks]


def shortened(name: str, width: int) -> str:
    """Return a name, truncated to a width in characters."""
    return name if len(name) <= width else name[: width - 1] + "\N{HORIZONTAL ELLIPSIS}" if width > 2 else ""


def _points(rows: Sequence[Row], name: str) -> list[tuple[float, float]]:
    return [(row["step"], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
