"""A confusion matrix as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from zoo.bundle.bundle import replacing

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CELL = 0.42
"""Width of a class in inches."""

MAX_WRITTEN = 40
"""With more classes than this the cells are too small to hold their numbers."""

DARK = 0.55
"""Share from which on a number is white."""


def write_confusion(counts: NDArray[np.int64], names: tuple[str, ...], title: str, path: Path) -> None:
    """Write a PNG of where the pixels of each class go, as shares of its row in percent.

    Args:
        counts: (K, K), a row for each label and a column for each prediction.
        names: of the classes.
        title: above the picture.
        path: of the PNG.
    """
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    side = CELL * len(names)
    figure = Figure((side + 3.2, side + 2.2), layout="constrained")
    FigureCanvasAgg(figure)
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
            color = "white" if value > DARK else "#202124"
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=color)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
