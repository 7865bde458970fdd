"""Plots of a comparison: gains, learning curves, IoU by class, pseudo-labels, pictures of predictions."""

from __future__ import annotations

from itertools import cycle
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator
from PIL import Image

from zoo.bundle.bundle import replacing
from zoo.data.source import evenly_spaced
from zoo.image_format import displayed
from zoo.pages.overlay import grid
from zoo.pages.plots import INK, LIGHT, PAPER, SERIES, WIDTH, finish, legend, new_figure
from zoo.predictors.load import load_predictor
from zoo.train.compare.pseudo_labels import qualities
from zoo.train.compare.record import BASELINE
from zoo.train.compare.stats import class_iou, curve, rows
from zoo.train.runs.folder import RunFolder
from zoo.train.runs.log import BY_CONFIDENCE

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from zoo.data.source import Source
    from zoo.train.compare.record import Comparison, ComparisonFolder

COLORS = tuple(color for color in SERIES if color != LIGHT["gray"])
ROW = 0.24
"""Height of a row of a plot, in inches."""
COLUMN = 0.46
"""Width of a column of numbers, in inches."""
FEW = 4
"""Curves up to which each has a band over the range of its seeds."""
ON_COLOR = "#101010"
"""Of text on colors that are the same on light and on dark pages."""
IMAGES = 4


def styles(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Return a color and a line style for each candidate: labels only is gray, controls are dashed."""
    palette = cycle(COLORS)
    found = {}
    for candidate in comparison.compared:
        color = LIGHT["gray"] if candidate.name == BASELINE else next(palette)
        found[candidate.name] = (color, "--" if candidate.role == "control" else "-")
    return found


def gains(comparison: Comparison) -> Figure:
    """Return the gain of each row over labels only in points: a dot for the mean, a line for the interval."""
    found = [row for row in rows(comparison) if row.difference is not None]
    colors = styles(comparison)
    figure = new_figure(ROW * len(found) + 1.0, 1.2 * WIDTH)
    axes = figure.subplots()
    for place, row in enumerate(found):
        assert row.difference is not None
        color, _ = colors[row.name.partition(" ")[0]]
        low, high = row.difference.interval or (row.difference.mean, row.difference.mean)
        filling = color if row.difference.excludes_zero else PAPER
        axes.plot((100 * low, 100 * high), (place, place), color=color, linewidth=2)
        axes.plot(100 * row.difference.mean, place, "o", color=color, markersize=6, markerfacecolor=filling)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(found)), [row.name for row in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlabel(f"points of mIoU, {100 * comparison.confidence:.4g} % interval")
    finish(axes, "Gain over labels only; filled: clear")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", labelcolor=INK)
    return figure


def curves(comparison: Comparison) -> Figure:
    """Return the mIoU of each candidate by step: the mean, and of few a band over the range of the seeds."""
    figure = new_figure(3.4)
    axes = figure.subplots()
    lowest, highest = 1.0, 0.0
    few = len(comparison.methods) <= FEW
    for name, (color, line) in styles(comparison).items():
        steps, mean, low, high = curve(comparison, name)
        if not steps:
            continue
        if few:
            axes.fill_between(steps, low, high, color=color, alpha=0.1, linewidth=0)
        axes.plot(steps, mean, line, color=color, marker="o", markersize=3.5, linewidth=1.6, label=name)
        lowest, highest = min(lowest, *mean), max(highest, *(high if few else mean))
    axes.set_xlabel("step after the warm start" if comparison.warm_steps else "step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0, comparison.settings["steps"] * 1.02)
    axes.set_ylim(0 if few else 0.95 * lowest, min(1.0, (1.15 if few else 1.05) * highest) or 1.0)
    finish(axes, f"mIoU on val: {'mean and range' if few else 'mean'} of {_seeds(comparison)}")
    legend(axes)
    return figure


def classes(comparison: Comparison) -> Figure:
    """Return the mean IoU of each class and row as numbers, on the color of the gain over labels only."""
    names = comparison.data["classes"]
    labels = [row.name for row in rows(comparison) if row.miou is not None]
    means = np.array([[_mean_of(class_iou(comparison, label)[name]) for label in labels] for name in names])
    base = means[:, [labels.index(BASELINE)]] if BASELINE in labels else means
    gain = np.nan_to_num(means - base)
    reach = max(0.05, float(np.abs(gain).max()))
    longest = max(map(len, names))
    figure = new_figure(ROW * len(names) + 1.6, max(WIDTH, COLUMN * len(labels) + 0.09 * longest + 0.4))
    axes = figure.subplots()
    axes.pcolormesh(gain, cmap="RdYlGn", vmin=-1.6 * reach, vmax=1.6 * reach)
    axes.invert_yaxis()
    for (row, column), value in np.ndenumerate(means):
        text = "\N{EN DASH}" if np.isnan(value) else f"{value:.2f}"
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=ON_COLOR)
    places = np.arange(len(labels)) + 0.5
    axes.set_xticks(places, labels, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(names)) + 0.5, names)
    finish(axes, f"IoU by class on val, mean of {_seeds(comparison)}; colors: gain over labels only")
    axes.grid(visible=False)
    axes.tick_params(labelcolor=INK)
    return figure


def pseudo_labels(comparison: Comparison) -> Figure:
    """Return what each filter keeps and which errors it catches, by step."""
    colors = styles(comparison)
    figure = new_figure(5.6)
    panels = {"kept": "Share of pixels kept", "recall": "Errors caught; dotted: by confidence"}
    for axes, (key, title) in zip(figure.subplots(2, 1, sharex=True), panels.items(), strict=True):
        for name, quality in qualities(comparison).items():
            color, _ = colors[name]
            _draw_figure(axes, quality.over_time, key, color, "-", name)
            if key != "kept":
                _draw_figure(axes, quality.over_time, f"{BY_CONFIDENCE}{key}", color, ":", None)
        axes.set_ylim(0, 1.03)
        axes.set_xlim(0, comparison.settings["steps"] * 1.02)
        finish(axes, title)
    axes.set_xlabel("step after the warm start" if comparison.warm_steps else "step")
    legend(axes)
    return figure


def _draw_figure(
    axes: Axes, points: list[dict[str, float]], key: str, color: str, line: str, label: str | None
) -> None:
    """Draw a figure of pseudo-labels by step."""
    found = [(each["step"], each[key]) for each in points if key in each]
    steps, values = [step for step, _ in found], [value for _, value in found]
    axes.plot(steps, values, line, color=color, marker="o", markersize=3.5, linewidth=1.6, label=label)


def _mean_of(values: list[float]) -> float:
    return fmean(values) if values else float("nan")


def write_pictures(path: Path, folder: ComparisonFolder, comparison: Comparison, source: Source) -> None:
    """Write images of `val`, evenly spaced, with their truth and what the first finished seed predicts."""
    first = {run.candidate: run for run in reversed(comparison.finished)}
    runs = [first[name] for name in comparison.methods if name in first]
    predictors = [load_predictor(RunFolder(folder.run(run)).bundle, device=comparison.device) for run in runs]
    rows = []
    for id_ in evenly_spaced(source.ids("val"), IMAGES):
        image = source.read_image(id_)
        shown = displayed(image, source.format)
        rows.append((shown, source.read_mask(id_), *(each.predict(image) for each in predictors)))
    picture = grid(("image", "truth", *(run.candidate for run in runs)), rows, source.classes)
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", optimize=True)


def _seeds(comparison: Comparison) -> str:
    """Return which seeds there are, consecutive ones by the first and the last."""
    seeds = comparison.seeds
    if len(seeds) == 1:
        return f"seed {seeds[0]} alone"
    if len(seeds) > 3 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"
