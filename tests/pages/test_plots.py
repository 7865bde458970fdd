"""Plots as parts of a page."""

from __future__ import annotations

import re
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from zoo.pages.html import COLORS
from zoo.pages.plots import (
    LIGHT,
    Bar,
    bars,
    draw_bars,
    finish,
    label,
    logarithmic,
    new_figure,
    svg,
    write_png,
)

if TYPE_CHECKING:
    from pathlib import Path

    from markupsafe import Markup

BARS = [
    Bar(0, "ort <int8>", LIGHT["teal"], (10, 15, 20), "10.0", "2.00x"),
    Bar(1, "trt", LIGHT["green"], (40,), "40.0"),
]


@pytest.fixture
def drawn() -> Markup:
    return bars(BARS, "ms, a < b")


def test_no_two_colors_are_drawn_alike_so_that_each_has_its_dark_one() -> None:
    assert len(set(LIGHT.values())) == len(COLORS)


def test_a_plot_takes_colors_and_font_of_the_page_and_its_text_is_text(drawn: Markup) -> None:
    assert re.findall(r"#[0-9a-f]{6}\b", drawn) == []
    assert {"var(--teal)", "var(--green)", "var(--ink)", "var(--line)"} <= set(
        re.findall(r"var\(--\w+\)", drawn)
    )
    assert "font-family" not in drawn
    texts = set(re.findall(r">([^<>\n]+)</text>", drawn))
    assert {"ort &lt;int8&gt;", "10.0", "2.00x", "trt", "40.0", "ms, a &lt; b"} <= texts


def test_a_plot_has_a_name_and_no_address_and_is_the_same_each_time(drawn: Markup) -> None:
    assert drawn.startswith('<svg role="img" aria-label="ms, a &lt; b" viewBox=')
    assert "http" not in drawn
    assert bars(BARS, "ms, a < b") == drawn


def test_what_plots_share_an_id_of_is_the_same_in_all() -> None:
    for name in ("p", "m"):
        found = [
            dict(re.findall(rf'<(?:clipPath|path) id="({name}\w+)"(.*?)</', plot, re.DOTALL))
            for plot in (line_plot([1, 2]), line_plot([3, 1]), bars(BARS, "b"))
        ]
        assert any(found)
        for one, other in combinations(found, 2):
            assert all(one[key] == other[key] for key in one.keys() & other.keys())


def line_plot(values: list[int]) -> Markup:
    figure = new_figure(2)
    axes = figure.subplots()
    axes.plot(values, "o-")
    finish(axes, "a")
    return svg(figure)


def test_bars_are_solid_to_the_median_light_to_p90_and_thin_to_p99_on_one_scale_from_zero() -> None:
    axes = new_figure(2).subplots()
    draw_bars(axes, BARS, "ms")
    parts = [(bar.get_x(), bar.get_width(), bar.get_alpha()) for bar in axes.patches]
    assert parts == [(0, 10, None), (10, 5, 0.35), (0, 40, None)]
    assert [line.get_segments()[0].tolist() for line in axes.collections] == [[[15, 0], [20, 0]]]
    assert axes.get_xlim()[0] == 0
    assert axes.get_ylim() == (1.6, -0.6)


@pytest.mark.parametrize("values", [(0.0, 0.0), (1e-9, 1e-9)])
def test_bars_may_have_no_length(values: tuple[float, ...]) -> None:
    assert "none" in bars(
        [Bar(y, "none", LIGHT["red"], (value,), "0") for y, value in enumerate(values)], "b"
    )


@pytest.mark.parametrize(
    ("values", "ticks"), [((3, 150), [5, 10, 20, 50, 100]), ((0.002, 5), [0.01, 0.1, 1])]
)
def test_a_logarithmic_axis_has_ticks_at_one_two_and_five_or_at_powers_of_ten(
    values: tuple[float, float], ticks: list[float]
) -> None:
    axes = new_figure(2).subplots()
    axes.plot(values, values)
    logarithmic(axes, "y")
    low, high = axes.get_ylim()
    assert [tick for tick in axes.get_yticks() if low <= tick <= high] == pytest.approx(ticks)


def test_labels_cover_neither_each_other_nor_points() -> None:
    names = [
        "eager",
        "eager-amp",
        "compile",
        "ort:fp32",
        "ort:int8",
        "openvino:fp32",
        "openvino:int8",
        "trt:fp16",
    ]
    points = [(0.1 + 0.11 * index, 0.4 + 0.01 * (index % 3), name) for index, name in enumerate(names)]
    figure = new_figure(3.4)
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    label(figure, axes, points)
    texts = [text for text in axes.texts if text.get_text()]
    assert [text.get_text() for text in texts] == names
    boxes = [text.get_window_extent() for text in texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    places = axes.transData.transform([point[:2] for point in points])
    assert not any(box.contains(*place) for box in boxes for place in places)
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_a_png_is_on_white_in_the_light_colors(tmp_path: Path) -> None:
    figure = new_figure(2)
    draw_bars(figure.subplots(), BARS, "ms")
    write_png(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert (pixels == (0x12, 0x9E, 0xAF)).all(axis=2).sum() > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
