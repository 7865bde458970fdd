"""The pictures of a run: its curves, and predictions beside the truth."""

from __future__ import annotations

from itertools import compress
from textwrap import fill
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from zoo.bundle.bundle import replacing
from zoo.data.tags import tags_of_mask
from zoo.evaluation.figures import MASKS
from zoo.evaluation.tag_metrics import THRESHOLD
from zoo.pages.overlay import triptych
from zoo.train.runs.log import read_log

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.data.source import Source
    from zoo.evaluation.figures import Figures
    from zoo.predictors.base import Predictor
    from zoo.predictors.tags import TagPredictor
    from zoo.train.method import Phase
    from zoo.train.runs.log import Row

PREVIEW_IMAGES = 4


def write_preview(path: Path, predictor: Predictor, source: Source) -> None:
    """Write a picture of `val` images: image, truth, prediction."""
    rows = []
    for id_ in _preview_ids(source):
        image = source.read_image(id_)
        rows.append((image, source.read_mask(id_), predictor.predict(image)))
    with replacing(path) as temporary:
        Image.fromarray(triptych(rows, source.classes)).save(temporary, format="PNG")


def write_tag_preview(path: Path, predictor: TagPredictor, source: Source) -> None:
    """Write a picture of `val` images, each above its true and its predicted classes."""
    names = source.classes.names
    ids = _preview_ids(source)
    figure = Figure(figsize=(4 * len(ids), 5), layout="constrained")
    for axes, id_ in zip(figure.subplots(1, len(ids), squeeze=False)[0], ids, strict=True):
        image = source.read_image(id_)
        truth = tags_of_mask(source.read_mask(id_), len(names))
        rows = (("shows", truth), ("called seen", predictor.predict(image) > THRESHOLD))
        texts = [f"{title}: {', '.join(compress(names, tags)) or 'nothing'}" for title, tags in rows]
        axes.imshow(image)
        axes.set_xlabel("\n".join(fill(text, 40) for text in texts), loc="left")
        axes.set(xticks=[], yticks=[], anchor="N")
    _save(figure, path)


def _preview_ids(source: Source) -> tuple[str, ...]:
    ids = source.ids("val")
    return ids[:: max(1, len(ids) // PREVIEW_IMAGES)][:PREVIEW_IMAGES]


def write_curves(path: Path, log: Path, phases: tuple[Phase, ...], figures: Figures = MASKS) -> None:
    """Write a picture of the loss terms and of the main figure on `val`, by step."""
    rows = read_log(log)
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in sorted({key for row in rows for key in row if key.startswith("loss/")}):
        steps, values = _curve([row for row in rows if row.get(name) != 0], name)
        left.plot(steps, values, label=name.removeprefix("loss/"), linewidth=1)
    left.set(xlabel="step", yscale="log")
    left.set_title("Loss terms, weighted", pad=16)
    left.legend(fontsize=8)
    steps, values = _curve(rows, f"val/{figures.main}")
    right.plot(steps, values, marker="o")
    for step, value in zip(steps, values, strict=True):
        right.annotate(f"{value:.3f}", (step, value), xytext=(0, 6), textcoords="offset points", ha="center")
    right.set(xlabel="step", ylim=(0, min(1.0, max([0.5, *values]) + 0.1)))
    right.set_title(f"{figures.overall[figures.main]} on val", pad=16)
    for axes in (left, right):
        start = 0
        for phase in phases:
            axes.axvline(start, color="grey", linestyle=":", linewidth=1)
            axes.text(
                start, 1.01, f" {phase.name}", transform=axes.get_xaxis_transform(), fontsize=8, color="grey"
            )
            start += phase.steps
        axes.set_xlim(0, sum(phase.steps for phase in phases))
        axes.grid(alpha=0.3)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _curve(rows: list[Row], name: str) -> tuple[list[float], list[float]]:
    """Return the steps at which a figure was logged, and its values."""
    points = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in points], [value for _, value in points]
