"""Plot of a confusion matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zoo.pages.plots import INK, PAPER, new_figure, write_png

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CELL = 0.42
"""Width of a class in inches."""

MAX_WRITTEN = 40
"""Largest number of classes whose cells are large enough for numbers."""

DARK = 0.55
"""Share above which numbers are white."""


def write_confusion(counts: NDArray[np.int64], names: tuple[str, ...], title: str, path: Path) -> None:
    """Write a PNG of a confusion matrix, in percent of each row.

    Args:
        counts: (K, K), with a row for each label and a column for each prediction.
        names: names of the classes.
        title: title of the plot.
        path: path of the PNG.
    """
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    side = CELL * len(names)
    figure = new_figure(side + 2.2, side + 3.2)
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    axes.set_title(f"{title}\n% of the pixels of each label", fontsize=10, loc="left")
    axes.spines[:].set_visible(False)
    if len(names) <= MAX_WRITTEN:
        for row, column in np.argwhere(share >= 0.005):
            value = share[row, column]
            color = PAPER if value > DARK else INK
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=color)
    write_png(figure, path)
