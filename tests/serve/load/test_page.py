from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from zoo.serve.bench.measurement import Times
from zoo.serve.load.loops import Observed, Sample
from zoo.serve.load.measurement import Bare, Goodput, Report, Row, Server, Settings
from zoo.serve.load.page import html, plotted, write_report
from zoo.serve.load.reading import warnings
from zoo.serve.load.run import row, server_timing
from zoo.serve.load.table import CLOSED, OPEN, goodput, lines

if TYPE_CHECKING:
    from pathlib import Path

VOID = {"meta", "path", "use", "rect"}


class Checker(HTMLParser):
    """Follows which tags are open and keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "action"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID, attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def text_of(page: str) -> str:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert (checker.open, checker.links) == ([], [])
    return " ".join(checker.text)


def sample(start: float, milliseconds: float, kind: str = "", timing: str = "") -> Sample:
    return Sample(start, start + 0.001, start + milliseconds / 1000, kind, timing, 50, 20)


def make_row(**changes: Any) -> Row:
    times = Times(n=1200, min=8, mean=11, p50=10, p90=15, p99=30, rounds=(10,) * 10)
    fields: dict[str, Any] = {
        "loop": "closed",
        "clients": 1,
        "requests": 1200,
        "latency_ms": times,
        "answered_per_s": 90.0,
        "in_time": 1.0,
        "parts_ms": {"decode": 1, "queue": 2, "compute": 6, "encode": 0.5, "rest": 1.5},
        "sent_bytes": 54_000_000,
        "received_bytes": 13_000_000,
        "client_cpu": 0.1,
        "connections": 1,
        "seconds": 13.0,
    }
    return Row(**fields | changes)


def open_row(rate: float, **changes: Any) -> Row:
    return make_row(**{"loop": "open", "clients": None, "rate": rate, "late_ms": 0.2} | changes)


@pytest.fixture
def report() -> Report:
    machine = {"cpu": "CPU", "cores": 2, "system": "Linux", "load": 0.1, "load_after": 1.0}
    overloaded = open_row(200, errors={"503": 30, "timeout": 2}, in_time=0.7)
    lost = open_row(150, searched=True, errors={"503": 1}, in_time=0.8)
    return Report(
        timestamp="2026-11-21T10:00:00+00:00",
        command="zoo load-test http://localhost:8000",
        machine=machine,
        versions={"zoo": "0.1.0", "torch": None},
        settings=Settings(),
        server=Server(
            url="http://localhost:8000",
            model="<b>eln",
            backend="ort",
            description="ONNX Runtime",
            reason="no GPU",
            images="16 JPEG of 640 x 480",
            request_bytes=45_000,
        ),
        rows=(
            make_row(),
            make_row(clients=8, in_time=0.99951),
            open_row(50),
            open_row(100, searched=True),
            lost,
            overloaded,
        ),
        goodput=Goodput(rate=100, failing_rate=104, tried=7),
        bare=Bare(
            path="model.onnx",
            backend="ort",
            description="ONNX Runtime",
            end_to_end_ms=Times(n=900, min=5, mean=6, p50=6, p90=7, p99=None, rounds=(6,) * 10),
        ),
    )


def test_the_page_tells_goodput_latency_parts_errors_and_overhead_without_a_link(report: Report) -> None:
    page = html(report)
    text = text_of(page)
    for part in (
        "Load test of <b>eln",
        "Goodput, open loop",
        "100/s",
        "Latency against arrivals",
        "Answers against arrivals",
        "Where the time goes",
        "1 client sees 10.0 ms, the model alone takes 6.00 ms",
        "+4.00 ms, +67%",
        "By the server's own clock, 1 client: 5.00 of 11.0 ms are not the model (45.4%)",
        "30 x 503, 2 x timeout",
        "What the client did",
        "ONNX Runtime, no GPU",
        "zoo load-test http://localhost:8000",
    ):
        assert part in text, part
    assert "<b>eln" not in page
    assert "<script" not in page


def test_a_rate_that_was_left_early_is_in_the_table_but_in_no_plot(report: Report) -> None:
    page = html(report)
    assert page.count("150/s") == 2  # of figures and of what the client did
    assert [row.rate for row in plotted(report)] == [50, 100, 200]


def test_a_page_of_a_server_that_says_nothing_of_its_time_and_fails_has_no_such_plots(report: Report) -> None:
    bad = make_row(latency_ms=None, parts_ms={}, answered_per_s=0.0, in_time=0.0, errors={"refused": 1200})
    arrivals = open_row(50, latency_ms=None, parts_ms={}, answered_per_s=0.0, errors={"refused": 1200})
    changes = {"rows": (bad, arrivals), "goodput": None, "bare": None}
    text = text_of(html(report.model_copy(update=changes)))
    assert "Where the time goes" not in text
    assert "1200 x refused" in text


def test_the_files_are_the_page_and_the_figures(report: Report, tmp_path: Path) -> None:
    page, data = write_report(report, tmp_path / "made")
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert Report.model_validate_json(data.read_text()) == report
    assert json.loads(data.read_text())["goodput"]["rate"] == 100
    assert sorted(path.name for path in page.parent.iterdir()) == ["load.html", "load.json"]


def test_tables_have_a_line_for_each_load(report: Report) -> None:
    _, closed = lines(report.closed, CLOSED)
    assert closed[0] == ["1 client", "90.0", "10.0", "15.0", "30.0", "100%", "1200", "0"]
    assert closed[1][5] == "99.9%"
    _, arrivals = lines(report.open, OPEN)
    assert [line[0] for line in arrivals] == ["50/s", "100/s", "150/s", "200/s"]
    assert arrivals[-1][-2:] == ["30 x 503, 2 x timeout", "the curve"]
    assert goodput(report).endswith("take at most 100 ms; 104/s did not.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"client_cpu": 0.85}, "The client was busy (85% of a core) with 50/s: it may be the limit"),
        ({"late_ms": 2.0}, "Requests were sent late (p99 2.00 ms) at 50/s"),
        ({"connections": 256}, "All 256 connections were busy at 50/s"),
    ],
)
def test_what_spoils_the_figures_is_warned_of(report: Report, changes: dict[str, Any], message: str) -> None:
    assert warnings(report) == []
    spoiled = report.model_copy(update={"rows": (make_row(), open_row(50, **changes))})
    [warning] = warnings(spoiled)
    assert warning.startswith(message)


def test_figures_are_of_good_answers_in_the_window_and_errors_are_named() -> None:
    timing = "decode;dur=1, queue;dur=2, compute;dur=4, encode;dur=0.5"
    samples = [sample(0.1, 10, timing=timing), sample(0.2, 20, timing=timing), sample(0.3, 5, "503")]
    found = row(
        [Observed(samples, 2, 1.0, 0.2, 3), Observed([sample(5, 30)], 1, 1.0, 0.4, 1)],
        bound_ms=15,
        loop="open",
        rate=2.0,
    )
    assert (found.requests, found.errors, found.answered_per_s) == (4, {"503": 1}, 1.5)
    assert found.latency_ms is not None
    assert (found.latency_ms.n, found.latency_ms.p99) == (3, None)
    assert found.latency_ms.p50 == pytest.approx(20)
    assert found.in_time == 0.25
    assert not found.holds
    assert found.parts_ms == pytest.approx(
        {"decode": 1, "queue": 2, "compute": 4, "encode": 0.5, "rest": 7.5}
    )
    assert (found.client_cpu, found.connections) == (0.4, 3)
    assert found.late_ms == pytest.approx(1)


def test_a_header_without_durations_says_nothing() -> None:
    assert server_timing("") == {}
    assert server_timing("cache;desc=hit") == {}
    assert server_timing("queue;dur=1.5;desc=x,compute;dur=2") == {"queue": 1.5, "compute": 2}
