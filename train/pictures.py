"""The pictures of a run: its curves, and predictions beside the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from zoo.bundle import replacing
from zoo.overlay import triptych
from zoo.train.log import read_log

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.data.source import Source
    from zoo.predictors.base import Predictor
    from zoo.train.log import Row
    from zoo.train.method import Phase

PREVIEW_IMAGES = 4


def write_preview(path: Path, predictor: Predictor, source: Source) -> None:
    """Write a picture of `val` images: image, truth, prediction."""
    ids = source.ids("val")
    chosen = ids[:: max(1, len(ids) // PREVIEW_IMAGES)][:PREVIEW_IMAGES]
    rows = []
    for id_ in chosen:
        image = source.read_image(id_)
        rows.append((image, source.read_mask(id_), predictor.predict(image)))
    with replacing(path) as temporary:
        Image.fromarray(triptych(rows, source.classes)).save(temporary, format="PNG")


def write_curves(path: Path, log: Path, phases: tuple[Phase, ...]) -> None:
    """Write a picture of the loss terms and of mIoU on `val`, by step."""
    rows = read_log(log)
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in sorted({key for row in rows for key in row if key.startswith("loss/")}):
        steps, values = _curve([row for row in rows if row.get(name) != 0], name)
        left.plot(steps, values, label=name.removeprefix("loss/"), linewidth=1)
    left.set(xlabel="step", yscale="log")
    left.set_title("Loss terms, weighted", pad=16)
    left.legend(fontsize=8)
    steps, values = _curve(rows, "val/miou")
    right.plot(steps, values, marker="o")
    for step, value in zip(steps, values, strict=True):
        right.annotate(f"{value:.3f}", (step, value), xytext=(0, 6), textcoords="offset points", ha="center")
    right.set(xlabel="step", ylim=(0, min(1.0, max([0.5, *values]) + 0.1)))
    right.set_title("mIoU on val", pad=16)
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
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _curve(rows: list[Row], name: str) -> tuple[list[float], list[float]]:
    """Return the steps at which a figure was logged, and its values."""
    points = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in points], [value for _, value in points]
