from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from zoo.pages.axes import axis_from_zero, linear_axis, logarithmic_axis
from zoo.predictors.backends import BACKENDS
from zoo.serve.bench.benchmark import scenarios
from zoo.serve.bench.measurement import Row, Times
from zoo.serve.bench.report.charts import Point, bars, curves, percentile_bar, scatter
from zoo.serve.bench.report.labels import HEIGHT, LINE, WIDTHS, place_labels, spread
from zoo.serve.bench.report.page import html

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.serve.bench.measurement import Report

    MakeRow = Callable[..., Row]
    MakeReport = Callable[..., Report]

VOID = {"meta", "line", "circle"}


class Checker(HTMLParser):
    """Follows which tags are open and keeps all text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(page: str) -> Checker:
    """Return what a page holds; its tags must be closed in order."""
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture
def page(make_row: MakeRow, make_gpu_row: MakeRow, make_report: MakeReport) -> str:
    """Return the page of two models, one at two batch sizes and one on a GPU."""
    rows = [
        make_row(name, 100 * batch, batch=batch, scenarios=scenarios(batch, (1, 8)))
        for batch in (1, 8)
        for name in ("eager", "ort", "openvino")
    ]
    rows += [make_gpu_row(name, 5, model="runs/<b>/bundle") for name in ("eager", "trt")]
    rows += [Row(model="runs/eln/bundle", backend="trt", reason="no GPU & no <engine>")]
    return html(make_report(*rows))


def test_the_page_needs_no_other_file_no_host_and_no_script(page: str) -> None:
    found = checked(page)
    assert "<script" not in page
    assert not [value for name, value in found.attributes if name in {"src", "href", "srcset", "action"}]
    assert "url(" not in page
    assert "@import" not in page
    assert "http" not in page


def test_the_page_suits_a_phone_and_the_dark(page: str) -> None:
    assert 'name="viewport" content="width=device-width' in page
    assert "prefers-color-scheme: dark" in page


def test_every_colour_of_a_backend_is_there_in_light_and_dark(page: str) -> None:
    for backend in BACKENDS:
        assert page.count(f" --{backend}: #") == 2
        assert f".{backend} {{ --c: var(--{backend}) }}" in page


def test_the_page_shows_plots_tables_machine_versions_and_command(page: str) -> None:
    text = " ".join(checked(page).text)
    for part in (
        "Latency against mIoU",
        "Latency, batch 8",
        "Throughput by batch size",
        "Throughput, batch 1",
        "On the GPU",
        "SingleStream: lowest latency, batch 1",
        "Offline: highest throughput, batch 8",
        "zoo benchmark runs/eln",
        "torch",
        "Not measured: trt: no GPU & no <engine>",
        "Load, build and first run",
        "Models",
    ):
        assert part in text, part


def test_text_of_users_cannot_break_the_page(page: str) -> None:
    assert "<b>/bundle" not in page
    assert "runs/&lt;b&gt;/bundle" in page


def test_without_miou_there_is_no_plot_of_it(make_row: MakeRow, make_report: MakeReport) -> None:
    row = make_row("eager", 5, accuracy=None, accuracy_reason="no labels")
    page = html(make_report(row))
    checked(page)
    assert "Latency against mIoU" not in page
    assert "No mIoU: eager: no labels" in page


def test_a_model_of_which_nothing_could_be_measured_has_a_section_with_the_reasons(
    make_row: MakeRow, make_report: MakeReport
) -> None:
    page = html(make_report(make_row("eager", 5), Row(model="other", backend="eager", reason="broken")))
    checked(page)
    assert "Not measured: eager: broken" in page


def test_a_bar_is_solid_to_the_median_light_to_p90_and_thin_to_p99() -> None:
    times = Times(n=1000, min=9, mean=11, p50=10, p90=15, p99=20, rounds=(10,) * 10)
    drawn = bars([percentile_bar("ort:int8", "ort", times)])
    spans = re.findall(r'class="(\w+)" style="left:([\d.]+)%;width:([\d.]+)%"', drawn)
    assert spans == [("solid", "0.00", "50.00"), ("light", "50.00", "25.00"), ("thin", "75.00", "25.00")]
    assert "p99 20.0" in drawn


def test_bars_share_a_scale() -> None:
    fast, slow = (
        Times(n=9, min=1, mean=p50, p50=p50, p90=p50, p99=None, rounds=(p50,) * 10) for p50 in (10.0, 40.0)
    )
    drawn = bars([percentile_bar("a", "ort", fast), percentile_bar("b", "trt", slow)])
    assert re.findall(r'class="solid" style="left:0.00%;width:([\d.]+)%', drawn) == ["25.00", "100.00"]


def test_points_stand_where_their_values_are() -> None:
    points = [Point(10, 0.5, "slow", "eager", ""), Point(1, 0.7, "fast", "ort", "")]
    drawn = scatter(
        points, logarithmic_axis([1, 10])._replace(low=0.1, high=10), linear_axis([0.5, 0.7]), ("ms", "mIoU")
    )
    x = dict(re.findall(r'class="mark (\w+)" x="([\d.]+)%', drawn))
    assert x == {"eager": "100.00", "ort": "50.00"}
    y = {
        name: float(place)
        for name, place in re.findall(r'class="mark (\w+)" x="[\d.]+%" y="([\d.]+)%', drawn)
    }
    assert y["ort"] < y["eager"]


def test_an_axis_does_not_make_chance_look_large() -> None:
    axis = linear_axis([0.7120, 0.7121], least=0.04)
    assert axis.high - axis.low >= 0.04
    assert axis.low <= 0.712 <= axis.high
    assert linear_axis([3.0, 3.0]).low < 3 < linear_axis([3.0, 3.0]).high


def test_a_logarithmic_axis_has_ticks_at_one_two_and_five() -> None:
    assert logarithmic_axis([3, 150]).ticks == pytest.approx((5, 10, 20, 50, 100))


def test_an_axis_from_zero_ends_at_a_round_number_above_the_values() -> None:
    axis = axis_from_zero([70, 830])
    assert (axis.low, axis.high, axis.ticks) == (0, 1000, (0, 500, 1000))


def test_lines_have_one_label_each() -> None:
    series = [
        [Point(batch, batch * rate, name, "ort", "") for batch in (1, 2)]
        for name, rate in (("a", 1), ("b", 2))
    ]
    drawn = curves(series, logarithmic_axis([1, 2]), axis_from_zero([4]), ("batch", "images/s"))
    assert re.findall(r'text-anchor="start">(\w)<', drawn) == ["a", "b"]
    assert drawn.count('class="curve ort"') == 2
    assert drawn.count("<circle") == 4


@pytest.mark.parametrize("width", WIDTHS)
def test_labels_cover_neither_each_other_nor_points(width: float) -> None:
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
    boxes = []
    for (x, y, name), (dx, dy) in zip(points, place_labels(points), strict=True):
        left, middle = x * width + dx, y * HEIGHT + dy
        boxes.append((left, middle - LINE / 2, left + 6.7 * len(name), middle + LINE / 2))
    for index, box in enumerate(boxes):
        for other in boxes[:index]:
            assert not overlap(box, other)
        for x, y, _ in points:
            assert not overlap(box, (x * width - 5, y * HEIGHT - 5, x * width + 5, y * HEIGHT + 5))


def overlap(box: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return min(box[2], other[2]) > max(box[0], other[0]) and min(box[3], other[3]) > max(box[1], other[1])


def test_labels_behind_lines_are_spread_where_they_are_close_and_keep_their_order() -> None:
    places = [100.0, 101.0, 103.0, 200.0]
    moved = [place + shift for place, shift in zip(places, spread(places), strict=True)]
    assert moved[3] == 200
    assert [after - before for before, after in pairwise(moved[:3])] == pytest.approx([LINE, LINE])
    assert sum(moved[:3]) == pytest.approx(sum(places[:3]))
