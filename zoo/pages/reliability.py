"""Plot of a reliability measurement: reliability diagram and risk-coverage curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.pages.plots import QUIET, SERIES, finish, legend, new_figure, write_png

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SIDE = 4.0
"""Size of a panel in inches."""
RARE = 0.001
"""Share of the pixels below which a bin is not drawn: its share of right pixels is noise."""


def write_reliability(scores: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write a PNG with the reliability diagram and the risk-coverage curve of each score.

    Args:
        scores: metrics by score, as `zoo.evaluation.reliability` returns them.
        path: path of the PNG.
    """
    figure = new_figure(SIDE, 2.4 * SIDE)
    diagram, curve = figure.subplots(1, 2)
    diagram.plot((0, 1), (0, 1), color=QUIET, linestyle=":")
    for (name, found), color in zip(scores.items(), SERIES, strict=False):
        bins = [each for each in found["diagram"] if each["share"] >= RARE]
        points = [(each["reliability"], each["right"]) for each in bins]
        diagram.plot(*zip(*points, strict=True), color=color, marker="o", markersize=3, label=name)
        curve.plot(*zip(*found["risk_coverage"], strict=True), color=color, label=name)
    diagram.set_xlabel("reliability")
    diagram.set_ylabel("share of right pixels")
    curve.set_xlabel("coverage: share of pixels kept, the most reliable first")
    curve.set_ylabel("share of wrong pixels")
    curve.set_ylim(bottom=0)
    finish(diagram, "Reliability diagram")
    finish(curve, "Risk by coverage")
    legend(curve)
    write_png(figure, path)
