"""Curves of a page: what is drawn where, on which axis, of how many points."""

from __future__ import annotations

import re

import pytest

from zoo.train.report.plots import MOST_POINTS, SIDE, Curve, loss_axis, plain_axis, plot, thinned

PHASES = {"first": 25, "<second>": 75}


def test_a_curve_goes_from_its_first_step_to_its_last_through_the_height_of_its_values() -> None:
    drawn = plot("Loss", [Curve("a<b", ((0, 0.0), (50, 2.0), (100, 1.0)))], PHASES, plain_axis)
    assert f'd="M0.0 {SIDE}.0 L500.0 0.0 L1000.0 500.0"' in drawn
    assert "a&lt;b <b>1</b>" in drawn


def test_phases_are_named_over_their_steps_and_divided_by_a_line() -> None:
    drawn = plot("Loss", [Curve("a", ((100, 1.0),))], PHASES, plain_axis)
    assert re.findall(r"width:([\d.]+%)", drawn) == ["25.00%", "75.00%"]
    assert "&lt;second&gt;</span>" in drawn
    assert '<path class="border" d="M250.0 0V1000"/>' in drawn
    assert 'class="phases"' not in plot("Loss", [Curve("a", ((10, 1.0),))], {"train": 10}, plain_axis)


def test_a_single_point_is_a_dot_and_no_point_no_plot() -> None:
    assert '<path class="dots c0" d="M1000.0 0.0h0"/>' in plot(
        "Loss", [Curve("a", ((100, 1.0),))], PHASES, plain_axis
    )
    assert plot("Loss", [Curve("a", ())], PHASES, plain_axis) == ""


def test_terms_that_differ_much_are_on_a_logarithmic_axis_without_their_zeros() -> None:
    curves = [Curve("a", ((10, 10.0), (20, 0.0), (30, 0.01)))]
    drawn = plot("Loss", curves, PHASES, loss_axis)
    assert "Loss, logarithmic" in drawn
    line = re.search(r'class="c0" d="([^"]*)"', drawn)
    assert line is not None
    assert line[1].count("L") == 1


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [-1.0, 1.0], [3.0], [-2.0]])
def test_every_set_of_values_has_an_axis_that_holds_it(values: list[float]) -> None:
    for axis_of in (plain_axis, loss_axis):
        axis = axis_of(values)
        assert all(0 <= axis.share(value) <= 1 for value in values)


def test_a_long_run_is_shown_by_means_of_neighbors() -> None:
    points = tuple((float(step), float(step % 2)) for step in range(10 * MOST_POINTS))
    found = thinned(points)
    assert len(found) == MOST_POINTS
    assert {value for _, value in found} == {0.5}
    assert thinned(points[:7]) == points[:7]
