from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from zoo.serve.machine import describe_machine, versions
from zoo.serve.measurement import Latency, Report, Row, Settings, number
from zoo.serve.plot import write_plot
from zoo.serve.report import cells, comparison, markdown, why_not, write_report

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "runs/eln/bundle"


def measured(backend: str, p50: float, **changes: object) -> Row:
    latency = Latency(runs=120, min=p50 * 0.9, p50=p50, p90=p50 * 1.2, p99=None, rounds=(p50,) * 10)
    row = Row(
        model=MODEL,
        backend=backend,
        runtime="somewhere",
        data="shapes",
        imgsz=(512, 384),
        batch=1,
        latency_ms=latency,
        images_per_s=1000 / p50,
        speedup=400 / p50,
        speedup_range=(380 / p50, 420 / p50),
        agreement=0.9999999,
    )
    return row.updated(**changes)


def make_report(*rows: Row, quick: bool = False) -> Report:
    return Report(
        timestamp="2026-11-21T10:00:00+00:00",
        command="zoo benchmark runs/eln",
        machine=describe_machine() | {"load_after": 0.5},
        versions=versions(),
        settings=Settings(threads=2, quick=quick),
        rows=rows,
    )


ROWS = (
    measured("eager", 400, speedup=1.0, speedup_range=(1.0, 1.0), agreement=1.0),
    measured("ort", 300),
    measured("eager", 3000, batch=8, speedup=1.0, speedup_range=(1.0, 1.0)),
    Row(model=MODEL, backend="trt", reason="no engine"),
    Row(model=MODEL, backend="ort", batch=8, reason="out of memory"),
)


def test_three_files_are_written_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "benchmark"
    paths = write_report(make_report(*ROWS), folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in paths)
    assert [path.name for path in paths] == ["benchmark.json", "benchmark.md", "benchmark.png"]


def test_the_json_is_the_whole_report(tmp_path: Path) -> None:
    report = make_report(*ROWS)
    path = write_report(report, tmp_path)[0]
    assert Report.model_validate_json(path.read_text()) == report
    assert json.loads(path.read_text())["rows"][1]["latency_ms"]["p99"] is None


def test_the_markdown_is_a_table_of_what_was_measured() -> None:
    text = markdown(make_report(*ROWS))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[0].startswith("| backend | batch | p50 ms | p90 ms | p99 ms |")
    assert len(table) == 2 + 3
    assert "| ort | 1 | 300 | 360 | \u2013 | 270 | 3.33 | 1.33x (1.27-1.40) | 99.999% | 120 |" in table
    assert "| eager | 1 | 400 | 480 | \u2013 | 360 | 2.50 | 1.00x | 100% | 120 |" in table


def test_what_was_not_measured_is_named_with_its_reason() -> None:
    assert why_not(list(ROWS)) == ["trt: no engine", "ort at batch 8: out of memory"]
    assert "Not measured: trt: no engine" in markdown(make_report(*ROWS))


def test_the_markdown_says_how_it_was_measured() -> None:
    text = markdown(make_report(*ROWS))
    for part in (
        "zoo benchmark runs/eln",
        "threads of every backend: 2",
        "3 s and 100 runs",
        "512x384",
        "torch",
    ):
        assert part in text


def test_a_quick_look_is_called_one() -> None:
    assert "quick look" in markdown(make_report(*ROWS, quick=True))
    assert "quick look" not in markdown(make_report(*ROWS))


def test_stages_of_a_gpu_have_columns_where_there_are_any() -> None:
    staged = measured("eager", 5, stages_ms={"h2d": 0.1, "compute": 4.5, "d2h": 0.25})
    head, lines = cells([staged, measured("ort", 4)])
    assert head[-3:] == ["h2d ms", "compute ms", "d2h ms"]
    assert [line[-3:] for line in lines] == [["0.100", "4.50", "0.250"], ["\u2013"] * 3]


def test_models_have_short_names_as_long_as_they_differ() -> None:
    rows = [measured("eager", 5, model=model) for model in ("runs/a/bundle", "b/bundle/model.onnx", "c")]
    assert make_report(*rows).labels() == {
        "runs/a/bundle": "a",
        "b/bundle/model.onnx": "model.onnx",
        "c": "c",
    }
    runs = [measured("eager", 5, model=f"runs/{path}") for path in ("rrn/bundle", "rrn/bundle-branch_1")]
    assert list(make_report(*runs).labels().values()) == ["rrn", "rrn-branch_1"]
    alike = [measured("eager", 5, model=model) for model in ("x/model.onnx", "y/model.onnx")]
    assert make_report(*alike).labels() == {"x/model.onnx": "x/model.onnx", "y/model.onnx": "y/model.onnx"}


def test_several_models_stand_side_by_side_with_how_many_times_as_fast_they_are() -> None:
    fused, branch = "runs/rrn/bundle", "runs/rrn/bundle-branch_1"
    rows = [
        measured("eager", 400, model=fused),
        measured("ort", 300, model=fused),
        measured("ort", 900, model=fused, batch=8),
        measured("eager", 200, model=branch),
        measured("ort", 100, model=branch),
        Row(model=branch, backend="ort", batch=8, reason="out of memory"),
    ]
    head, lines = comparison(make_report(*rows)) or ([], [])
    assert head == ["backend", "batch", "size", "rrn", "rrn-branch_1"]
    assert lines == [
        ["eager", "1", "512x384", "400", "200 (2.00x)"],
        ["ort", "1", "512x384", "300", "100 (3.00x)"],
    ]
    assert "| ort | 1 | 512x384 | 300 | 100 (3.00x) |" in markdown(make_report(*rows))


def test_models_are_compared_at_one_size_and_a_single_one_not_at_all() -> None:
    assert comparison(make_report(*ROWS)) is None
    assert "## Models" not in markdown(make_report(*ROWS))
    rows = [measured("ort", 5, model="a"), measured("ort", 9, model="b", imgsz=(64, 64))]
    assert comparison(make_report(*rows)) is None


def test_numbers_have_three_digits() -> None:
    assert [number(value) for value in (0.01234, 4.5, 99.96, 1234.5, None)] == [
        "0.0123",
        "4.50",
        "100",
        "1234",
        "\u2013",
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_the_picture_grows_with_the_models_and_has_the_colours_of_the_backends(
    count: int, tmp_path: Path
) -> None:
    rows = [row.updated(model=f"model-{index}") for index in range(count) for row in ROWS]
    write_plot(make_report(*rows), tmp_path / "picture")
    pixels = np.asarray(Image.open(tmp_path / "picture").convert("RGB"))
    assert pixels.shape[1] == 1650
    assert pixels.shape[0] > 400 * count
    for color in ((0x9A, 0xA0, 0xA6), (0x2A, 0x9D, 0x8F)):
        assert (pixels == color).all(axis=2).sum() > 1000
