"""Quality of the pseudo-labels in a comparison: what each filter keeps and drops.

Figures are means over seeds, on the same hidden masks for all methods (`zoo.train.loop.filter_quality`),
beside a plain threshold on the confidence that keeps as many pixels.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.train.runs.log import BY_CONFIDENCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from zoo.train.compare.record import Comparison

Figures = dict[str, float]

ABSENT = "\N{EN DASH}"
COLUMNS = {
    "right": ("accuracy_of_all",),
    "kept": ("kept",),
    "right of kept (by confidence)": ("accuracy", f"{BY_CONFIDENCE}accuracy"),
    "errors caught": ("recall", f"{BY_CONFIDENCE}recall"),
    "precision": ("precision", f"{BY_CONFIDENCE}precision"),
    "F1": ("f1", f"{BY_CONFIDENCE}f1"),
}
"""Columns of the table by method: a figure of the filter, and of the threshold in parentheses."""
CLASS_COLUMNS = {
    "right": ("accuracy_of_all",),
    "kept": ("kept", f"{BY_CONFIDENCE}kept"),
    "right of kept": ("accuracy", f"{BY_CONFIDENCE}accuracy"),
    "errors caught": ("recall", f"{BY_CONFIDENCE}recall"),
}
"""Columns of the tables by class."""
READING = (
    "Pseudo-labels after the last step, on unlabeled images whose masks are hidden from training: the share "
    "that is right, the share that the filter keeps, and how much of that is right. Errors caught, precision "
    "and F1 are of the dropped pixels as errors (ELN's Table 4, over the pixels of all images). In "
    "parentheses: a threshold on the confidence that keeps as many pixels."
)


class Table(NamedTuple):
    """A table with a title."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Quality(NamedTuple):
    """The figures of one method's pseudo-labels, means over seeds."""

    last: Figures
    over_time: list[Figures]
    by_class: dict[str, Figures]


def qualities(comparison: Comparison) -> dict[str, Quality]:
    """Return the figures of each candidate that makes pseudo-labels on data with hidden masks."""
    found = {}
    for name in comparison.methods:
        metrics = [run.metrics for run in comparison.of(name) if run.metrics and run.metrics.get("filter")]
        if metrics:
            found[name] = _quality(metrics)
    return found


def tables(comparison: Comparison) -> list[Table]:
    """Return the table of all methods, then one for each method by class; none without pseudo-labels."""
    found = qualities(comparison)
    if not found:
        return []
    rows = [(name, *_cells(each.last, COLUMNS.values())) for name, each in found.items()]
    by_method = [
        Table(
            f"Pseudo-labels of {name} by true class",
            ("class", "of all pixels", *CLASS_COLUMNS),
            [
                (label, _shown(figures, "share"), *_cells(figures, CLASS_COLUMNS.values()))
                for label, figures in quality.by_class.items()
            ],
        )
        for name, quality in found.items()
        if quality.by_class
    ]
    return [Table("Pseudo-labels", ("method", *COLUMNS), rows), *by_method]


def _quality(metrics: Sequence[dict[str, Any]]) -> Quality:
    curves = [{row["step"]: row for row in each["filter_curve"]} for each in metrics]
    steps = [step for step in curves[0] if all(step in curve for curve in curves)]
    classes = [each["filter_by_class"] or {} for each in metrics]
    names = dict.fromkeys(name for table in classes for name in table)
    return Quality(
        _mean([each["filter"] for each in metrics]),
        [_mean([curve[step] for curve in curves]) for step in steps],
        {name: _mean([table[name] for table in classes if name in table]) for name in names},
    )


def _mean(figures: Sequence[Figures]) -> Figures:
    """Return the mean of each figure over those that have it."""
    keys = dict.fromkeys(key for each in figures for key in each)
    return {key: fmean(each[key] for each in figures if key in each) for key in keys}


def _cells(figures: Figures, columns: Iterable[tuple[str, ...]]) -> list[str]:
    cells = []
    for filtered, *by_confidence in columns:
        beside = "".join(f" ({_shown(figures, key)})" for key in by_confidence)
        cells.append(_shown(figures, filtered) + beside)
    return cells


def _shown(figures: Figures, key: str) -> str:
    return f"{figures[key]:.3f}" if key in figures else ABSENT
