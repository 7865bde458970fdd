from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from zoo.pages.html import COLORS as PAGE_COLORS
from zoo.predictors.backends import BACKENDS
from zoo.serve.bench.benchmark import scenarios
from zoo.serve.bench.measurement import Row
from zoo.serve.bench.report.page import html

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.serve.bench.measurement import Report

    MakeRow = Callable[..., Row]
    MakeReport = Callable[..., Report]

VOID = {"meta", "path", "use", "rect"}


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
    assert re.findall(r"url\((?!#)", page) == []
    assert "@import" not in page
    assert "http" not in page


def test_the_page_suits_a_phone_and_the_dark(page: str) -> None:
    assert 'name="viewport" content="width=device-width' in page
    assert "prefers-color-scheme: dark" in page


def test_every_backend_has_a_color_of_its_own_in_light_and_dark(page: str) -> None:
    colors = [row.color for row in BACKENDS.values()]
    assert len(set(colors)) == len(colors)
    for name in colors:
        light, dark = PAGE_COLORS[name]
        assert f"--{name}: {light};" in page
        assert f"--{name}: {dark};" in page
    assert "fill: var(--teal)" in page


def test_the_page_shows_plots_tables_machine_versions_and_command(page: str) -> None:
    text = " ".join(checked(page).text)
    for part in (
        "Latency against mIoU",
        "ms, end to end: solid to p50",
        "images/s",
        " batch 1",
        " batch 8",
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


def test_the_plots_show_each_backend_with_its_latency_speedup_and_throughput(page: str) -> None:
    text = checked(page).text
    for part in (
        "ort:fp32",
        "100",
        "4.00\N{MULTIPLICATION SIGN}",
        "10.0",
        "openvino:fp32 eln",
        "trt:fp32 <b>",
    ):
        assert part in text, part
