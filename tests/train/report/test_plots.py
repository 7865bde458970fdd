"""Curves of a run: what is drawn where, on which axis, of how many points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zoo.evaluation.figures import MASKS
from zoo.pages.plots import new_figure, svg
from zoo.train.report.pictures import MOST_POINTS, Panel, draw, panels, shortened, thinned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

PHASES = {"first": 25, "<second>": 75}


def drawn(panel: Panel, phases: Mapping[str, int] = PHASES) -> Axes:
    """Return the axes on which a panel was drawn, which can also be written."""
    figure = new_figure(2.5)
    axes: Axes = figure.subplots()
    draw(axes, panel, phases)
    svg(figure)
    return axes


def test_a_curve_is_named_with_its_last_value_and_goes_through_its_points() -> None:
    axes = drawn(Panel("Loss", {"a<b": [(0, 0.0), (50, 2.0), (100, 1.0)]}))
    line = axes.get_lines()[0]
    assert line.get_xydata().tolist() == [[0, 0], [50, 2], [100, 1]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a<b 1"]
    assert "a&lt;b 1</text>" in svg(axes.figure)
    assert axes.get_xlim() == (0, 100)
    assert axes.get_ylim()[0] == 0


def test_phases_are_named_over_their_steps_and_divided_by_a_line() -> None:
    axes = drawn(Panel("Loss", {"a": [(100, 1.0)]}))
    assert [(text.get_text(), text.get_position()[0]) for text in axes.texts] == [
        (" first", 0),
        (" <second>", 25),
    ]
    assert [line.get_xdata()[0] for line in axes.get_lines()[1:]] == [0, 25]
    assert not drawn(Panel("Loss", {"a": [(10, 1.0)]}), {"train": 10}).texts
    assert [shortened("localize", width) for width in (8, 5, 2)] == [
        "localize",
        "loca\N{HORIZONTAL ELLIPSIS}",
        "",
    ]


def test_a_single_point_is_marked_and_without_a_point_there_is_no_panel() -> None:
    assert drawn(Panel("Loss", {"a": [(100, 1.0)]})).get_lines()[0].get_marker() == "o"
    assert drawn(Panel("Loss", {"a": [(50, 2.0), (100, 1.0)]})).get_lines()[0].get_marker() == "None"
    rows = [{"step": 5.0, "loss/a": 1.0, "loss/b": float("nan")}]
    assert panels(rows, MASKS, "val") == [
        Panel("Loss terms, weighted", {"a": [(5, 1)]}, may_be_logarithmic=True)
    ]


def test_terms_that_differ_much_are_on_a_logarithmic_axis_without_their_zeros() -> None:
    curves = {"a": [(10, 10.0), (20, 0.0), (30, 0.01)], "b": [(10, 0.0)]}
    axes = drawn(Panel("Loss", curves, may_be_logarithmic=True))
    assert axes.get_title(loc="left") == "Loss, logarithmic"
    assert axes.get_yscale() == "log"
    assert axes.get_lines()[0].get_ydata().tolist() == [10, 0.01]
    assert drawn(Panel("Loss", curves)).get_yscale() == "linear"


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [-1.0, 1.0], [3.0], [-2.0], [1e-9, 1e9]])
def test_every_set_of_values_has_an_axis_that_holds_it(values: list[float]) -> None:
    for may_be_logarithmic in (True, False):
        panel = Panel("Loss", {"a": list(enumerate(values))}, may_be_logarithmic=may_be_logarithmic)
        low, high = drawn(panel).get_ylim()
        assert low <= min(values) <= max(values) <= high


def test_a_long_run_is_shown_by_means_of_neighbors() -> None:
    points = [(float(step), float(step % 2)) for step in range(10 * MOST_POINTS)]
    found = thinned(points)
    assert len(found) == MOST_POINTS
    assert {value for _, value in found} == {0.5}
    assert thinned(points[:7]) == points[:7]
