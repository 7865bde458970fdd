"""Names of the metrics of masks and tags in tables, logs and cards, and their formatting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Figures(NamedTuple):
    """Display names of the metrics of a task, by key."""

    overall: dict[str, str]
    """Overall metrics, the means over classes first; the first is the main metric."""
    by_class: dict[str, str]
    """Metrics by class name, None if no label shows a class, in the order of their means in `overall`."""

    @property
    def main(self) -> str:
        """Return the key of the main metric, by which runs are compared."""
        return next(iter(self.overall))

    def rows(self, metrics: dict[str, Any], show: Callable[[float], str]) -> list[tuple[str, ...]]:
        """Return a row for each class: its name, then its metrics as text.

        Args:
            metrics: metrics of an evaluation.
            show: function that formats a value.
        """
        tables, split = [metrics[key] for key in self.by_class], metrics.get("split", "val")
        return [(name, *(shown(table[name], show, split) for table in tables)) for name in tables[0]]

    def means(self, metrics: dict[str, Any], show: Callable[[float], str]) -> tuple[str, ...]:
        """Return the row of means below the rows of the classes."""
        return "mean", *(text for _, text in self.summary(metrics, show)[: len(self.by_class)])

    def summary(self, metrics: dict[str, Any], show: Callable[[float], str]) -> list[tuple[str, str]]:
        """Return name and text of each overall metric."""
        return [(name, shown(metrics[key], show)) for key, name in self.overall.items()]


MASKS = Figures({"miou": "mIoU", "pixel_accuracy": "pixel accuracy"}, {"iou": "IoU"})
NEAR = Figures(
    {"miou": "mIoU", "boundary_miou": "boundary mIoU", "pixel_accuracy": "pixel accuracy"},
    {"iou": "IoU", "boundary_iou": "boundary IoU"},
)
TAGS = Figures({"f1": "F1", "map": "mAP"}, {"class_f1": "F1", "class_ap": "AP"})


def figures_of(metrics: dict[str, Any]) -> Figures:
    """Return the names of the given metrics."""
    if "boundary_miou" in metrics:
        return NEAR
    return next(figures for figures in (MASKS, TAGS) if figures.main in metrics)


def shown(value: float | None, show: Callable[[float], str], split: str = "val") -> str:
    """Return a value as text, `not in val` for None."""
    return f"not in {split}" if value is None else show(value)


def duration(seconds: float) -> str:
    """Return a duration as text, in its two largest units.

    Example:
        >>> [duration(seconds) for seconds in (9.6, 75, 8000, 200_000)]
        ['10 s', '1 min 15 s', '2 h 13 min', '2 d 7 h']
    """
    whole = round(seconds)
    for limit, unit, name, part, part_name in (
        (3600, 60, "min", 1, "s"),
        (86_400, 3600, "h", 60, "min"),
        (math.inf, 86_400, "d", 3600, "h"),
    ):
        if 60 <= whole < limit:
            return f"{whole // unit} {name} {whole % unit // part} {part_name}"
    return f"{whole} s"
