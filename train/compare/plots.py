"""The pictures of a comparison: learning curves, IoU by class, and predictions on the same images."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator
from PIL import Image

from zoo.bundle.bundle import replacing
from zoo.pages.overlay import grid
from zoo.pages.plots import INK, LIGHT, QUIET, SERIES, finish, legend, new_figure
from zoo.predictors.load import load_predictor
from zoo.train.compare.record import BASELINE
from zoo.train.compare.stats import class_iou, curve
from zoo.train.runs.folder import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from zoo.data.source import Source
    from zoo.train.compare.record import Comparison, ComparisonFolder

COLORS = SERIES[:6]
BAR = 0.16
"""Height of a bar, in inches."""
GAP = 1.2
"""Room between two classes, in bars."""
IMAGES = 4


def colors(comparison: Comparison) -> dict[str, str]:
    """Return a color for each method; labels only is grey."""
    others = [method for method in comparison.methods if method != BASELINE]
    palette = {method: COLORS[index % len(COLORS)] for index, method in enumerate(others)}
    return {method: palette.get(method, LIGHT["gray"]) for method in comparison.methods}


def curves(comparison: Comparison) -> Figure:
    """Return the mIoU of each method by step: a line for the mean, a band over the range of the seeds."""
    figure = new_figure(3.4)
    axes = figure.subplots()
    highest = 0.0
    for method, color in colors(comparison).items():
        steps, mean, low, high = curve(comparison, method)
        if not steps:
            continue
        axes.fill_between(steps, low, high, color=color, alpha=0.1, linewidth=0)
        axes.plot(steps, mean, color=color, marker="o", markersize=4, linewidth=2, label=method)
        highest = max(highest, *high)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0, comparison.settings["steps"] * 1.02)
    axes.set_ylim(0, min(1.0, 1.15 * highest) or 1.0)
    finish(axes, f"mIoU on val: {_seeds(comparison)}")
    legend(axes)
    return figure


def classes(comparison: Comparison) -> Figure:
    """Return the IoU of each class and method: a bar for the mean, a whisker over the range of the seeds."""
    methods = colors(comparison)
    names = comparison.data["classes"]
    pitch = len(methods) + GAP
    figure = new_figure(len(names) * pitch * BAR + 1.1)
    axes = figure.subplots()
    for index, (method, color) in enumerate(methods.items()):
        found = class_iou(comparison, method)
        bars = [(pitch * row + index, found[name]) for row, name in enumerate(names) if found[name]]
        _draw_bars(axes, bars, color, method)
    middle = (len(methods) - 1) / 2
    axes.set_yticks([pitch * row + middle for row in range(len(names))], names)
    axes.set_ylim(pitch * len(names) - GAP + 0.3, -0.8)
    axes.set_xlim(0, 1.06)
    finish(axes, f"IoU by class on val: {_seeds(comparison)}")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", labelcolor=INK)
    legend(axes)
    return figure


def _draw_bars(axes: Axes, bars: list[tuple[float, list[float]]], color: str, label: str) -> None:
    """Draw the bars of a method.

    Args:
        axes: to draw on.
        bars: place and values of each; the bar is their mean, the whisker their range.
        color: of the bars.
        label: in the legend.
    """
    places = [place for place, _ in bars]
    means = [fmean(values) for _, values in bars]
    below = [mean - min(values) for mean, (_, values) in zip(means, bars, strict=True)]
    above = [max(values) - mean for mean, (_, values) in zip(means, bars, strict=True)]
    whisker = {"elinewidth": 1}
    axes.barh(
        places, means, 0.86, color=color, label=label, xerr=(below, above), ecolor=INK, error_kw=whisker
    )
    for mean, (place, values) in zip(means, bars, strict=True):
        at = (max(values), place)
        axes.annotate(
            f"{mean:.2f}", at, (4, 0), textcoords="offset points", va="center", fontsize=8, color=QUIET
        )


def write_pictures(path: Path, folder: ComparisonFolder, comparison: Comparison, source: Source) -> None:
    """Write images of `val`, evenly spaced, with their truth and what the first finished seed predicts."""
    first = {run.method: run for run in reversed(comparison.finished)}
    runs = [first[method] for method in comparison.methods if method in first]
    predictors = [load_predictor(RunFolder(folder.run(run)).bundle, device=comparison.device) for run in runs]
    rows = []
    for id_ in evenly_spaced(source.ids("val"), IMAGES):
        image = source.read_image(id_)
        rows.append((image, source.read_mask(id_), *(each.predict(image) for each in predictors)))
    picture = grid(("image", "truth", *(run.method for run in runs)), rows, source.classes)
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", optimize=True)


def evenly_spaced(ids: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Return ids from the middles of equal parts, all of them if there are no more than `count`.

    Example:
        >>> evenly_spaced(tuple("abcdefgh"), 2)
        ('c', 'g')
    """
    count = min(count, len(ids))
    return tuple(ids[(2 * part + 1) * len(ids) // (2 * count)] for part in range(count))


def _seeds(comparison: Comparison) -> str:
    seeds = ", ".join(map(str, comparison.seeds))
    return f"mean and range of seeds {seeds}" if len(comparison.seeds) > 1 else f"seed {seeds} alone"
