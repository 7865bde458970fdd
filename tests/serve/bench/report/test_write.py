from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageColor

from zoo.pages.html import COLORS
from zoo.serve.bench.measurement import Report, Row, Settings, Speedup, number
from zoo.serve.bench.report.page import markdown, write_report
from zoo.serve.bench.report.plots import write_plot
from zoo.serve.bench.report.reading import notes, warnings
from zoo.serve.bench.report.table import GPU, comparison, lines, on_gpu, why_no_miou, why_not

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    MakeRow = Callable[..., Row]
    MakeReport = Callable[..., Report]


@pytest.fixture
def some_rows(make_row: MakeRow) -> tuple[Row, ...]:
    own = Speedup(ratio=1, low=1, high=1)
    return (
        make_row("eager", 400, speedup=own, agreement=1.0),
        make_row("ort", 300),
        make_row("eager", 3000, batch=8, speedup=own),
        Row(model="runs/eln/bundle", backend="trt", reason="no engine"),
        Row(model="runs/eln/bundle", backend="ort", precision="fp32", batch=8, reason="out of memory"),
    )


def test_four_files_are_written_and_nothing_else(
    some_rows: tuple[Row, ...], make_report: MakeReport, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "benchmark"
    paths = write_report(make_report(*some_rows), folder)
    assert sorted(folder.iterdir()) == sorted(paths)
    assert [path.name for path in paths] == [
        f"benchmark.{suffix}" for suffix in ("html", "json", "md", "png")
    ]


def test_the_json_is_the_whole_report(
    some_rows: tuple[Row, ...], make_report: MakeReport, tmp_path: Path
) -> None:
    report = make_report(*some_rows)
    path = write_report(report, tmp_path)[1]
    assert Report.model_validate_json(path.read_text()) == report
    row = json.loads(path.read_text())["rows"][1]
    assert row["end_to_end_ms"]["p99"] is None
    assert row["scenarios"] == ["SingleStream", "Offline"]


def test_the_markdown_is_a_table_of_what_was_measured(
    some_rows: tuple[Row, ...], make_report: MakeReport
) -> None:
    text = markdown(make_report(*some_rows))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[0].startswith("| backend | batch | p50 ms | p90 ms | p99 ms | images/s |")
    assert (
        "| ort:fp32 | 1 | 300 | 360 | \u2013 | 3.33 | 1.33x (1.27-1.40) | 0.80x (0.77-0.83) | 99.999% | "
        "0.712 (-0.52) | 162 |"
    ) in table
    assert "| eager | 1 | 400 | 480 | \u2013 | 2.50 | 1.00x |" in "\n".join(table)
    assert "GPU compute" not in text


def test_what_was_not_measured_is_named_with_its_reason(
    some_rows: tuple[Row, ...], make_report: MakeReport
) -> None:
    assert why_not(some_rows) == ["trt: no engine", "ort:fp32 at batch 8: out of memory"]
    assert "Not measured: trt: no engine." in markdown(make_report(*some_rows))


def test_backends_with_the_same_reason_share_a_line() -> None:
    rows = [Row(model="m", backend=backend, reason="no GPU") for backend in ("eager", "compile")]
    assert why_not(rows) == ["eager, compile: no GPU"]


def test_why_there_is_no_miou_is_said_once(make_row: MakeRow, make_report: MakeReport) -> None:
    rows = [
        make_row(backend, 9, batch=batch, accuracy=None, accuracy_reason="no labels")
        for batch in (1, 8)
        for backend in ("eager", "ort")
    ]
    assert why_no_miou(rows) == ["eager, ort:fp32: no labels"]
    assert "No mIoU: eager, ort:fp32: no labels." in markdown(make_report(*rows))


def test_the_markdown_says_how_it_was_measured(some_rows: tuple[Row, ...], make_report: MakeReport) -> None:
    text = markdown(make_report(*some_rows))
    for part in (
        "zoo benchmark runs/eln",
        "2 threads each backend",
        "3 s and 100 runs",
        "512x384",
        "torch",
        "on 64 of 1449 val images",
    ):
        assert part in text


def test_a_quick_look_and_a_busy_machine_are_called_that(
    some_rows: tuple[Row, ...], make_report: MakeReport
) -> None:
    report = make_report(*some_rows, settings=Settings(quick=True))
    assert "--quick" in markdown(report)
    calm = make_report(*some_rows)
    assert warnings(calm) == []
    busy = calm.model_copy(update={"machine": calm.machine | {"load": 2.5, "cores": 4}})
    assert "load average 2.5 on 4 cores" in warnings(busy)[0]


def test_clocks_that_were_held_down_are_a_warning(
    some_rows: tuple[Row, ...], make_report: MakeReport
) -> None:
    calm = make_report(*some_rows)
    for held, count in ((["idle"], 0), (["idle", "power cap"], 1)):
        machine = calm.machine | {"gpu_after": {"clocks.sm": "1410 MHz", "held_down_by": held}}
        found = warnings(calm.model_copy(update={"machine": machine}))
        assert len(found) == count
        assert count == 0 or found[0].endswith("at the end: power cap.")


def test_the_parts_on_a_gpu_have_a_table_where_there_are_any(
    make_row: MakeRow, make_gpu_row: MakeRow, make_report: MakeReport
) -> None:
    rows = [make_gpu_row("trt", 5), make_row("ort", 4)]
    head, table = lines(on_gpu(rows), GPU)
    assert dict(zip(head, table[0], strict=True)) == {
        "backend": "trt:fp32",
        "batch": "1",
        "GPU compute p50 ms": "4.00",
        "GPU compute p99 ms": "\u2013",
        "to GPU p50 ms": "0.500",
        "back p50 ms": "0.250",
        "latency p50 ms": "4.75",
        "latency p90 ms": "5.70",
        "latency p99 ms": "\u2013",
        "enqueue p50 ms": "0.100",
        "moved, MB": "0.590 + 0.197",
        "memory, MB": "1200",
        "CUDA graph": "on",
    }
    assert len(table) == 1
    assert "enqueue p50 ms" in markdown(make_report(*rows))


def test_what_matches_trtexec_says_how_to_run_it(make_gpu_row: MakeRow, make_report: MakeReport) -> None:
    rows = [
        make_gpu_row("trt", 5, batch=4, runtime="TensorRT 11.4.0 NVIDIA L4", artifact="e/model.engine"),
        make_gpu_row("eager", 9),
    ]
    found = [
        line
        for line in notes(make_report(*rows, settings=Settings(match_trtexec=True)))
        if "trtexec:" in line
    ]
    assert len(found) == 1
    assert "trtexec --loadEngine=e/model.engine --shapes=image:4x512x384x3 --noDataTransfers" in found[0]
    assert found[0].endswith("--useCudaGraph")
    assert not any("trtexec" in line for line in notes(make_report(*rows)))


def test_models_have_short_names_as_long_as_they_differ(make_row: MakeRow, make_report: MakeReport) -> None:
    rows = [make_row("eager", 5, model=model) for model in ("runs/a/bundle", "b/bundle/model.onnx", "c")]
    assert make_report(*rows).labels() == {
        "runs/a/bundle": "a",
        "b/bundle/model.onnx": "model.onnx",
        "c": "c",
    }
    runs = [make_row("eager", 5, model=f"runs/{path}") for path in ("rrn/bundle", "rrn/bundle-branch_1")]
    assert list(make_report(*runs).labels().values()) == ["rrn", "rrn-branch_1"]
    alike = [make_row("eager", 5, model=model) for model in ("x/model.onnx", "y/model.onnx")]
    assert make_report(*alike).labels() == {"x/model.onnx": "x/model.onnx", "y/model.onnx": "y/model.onnx"}


def test_several_models_stand_side_by_side_with_how_many_times_as_fast_they_are(
    make_row: MakeRow, make_report: MakeReport
) -> None:
    fused, branch = "runs/rrn/bundle", "runs/rrn/bundle-branch_1"
    rows = [
        make_row("eager", 400, model=fused),
        make_row("ort", 300, model=fused),
        make_row("ort", 900, model=fused, batch=8),
        make_row("eager", 200, model=branch),
        make_row("ort", 100, model=branch),
        Row(model=branch, backend="ort", precision="fp32", batch=8, reason="out of memory"),
    ]
    head, table = comparison(make_report(*rows)) or ([], [])
    assert head == ["backend", "batch", "size", "rrn", "rrn-branch_1"]
    assert table == [
        ["eager", "1", "512x384", "400", "200 (2.00x)"],
        ["ort:fp32", "1", "512x384", "300", "100 (3.00x)"],
    ]
    assert "| ort:fp32 | 1 | 512x384 | 300 | 100 (3.00x) |" in markdown(make_report(*rows))


def test_models_are_compared_at_one_size_and_a_single_one_not_at_all(
    make_row: MakeRow, make_report: MakeReport, some_rows: tuple[Row, ...]
) -> None:
    assert comparison(make_report(*some_rows)) is None
    assert "## Models" not in markdown(make_report(*some_rows))
    rows = [make_row("ort", 5, model="a"), make_row("ort", 9, model="b", imgsz=(64, 64))]
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
def test_the_picture_grows_with_the_models_and_has_the_colors_of_the_backends(
    count: int, some_rows: tuple[Row, ...], make_report: MakeReport, tmp_path: Path
) -> None:
    rows = [row.updated(model=f"model-{index}") for index in range(count) for row in some_rows]
    write_plot(make_report(*rows), tmp_path / "picture")
    pixels = np.asarray(Image.open(tmp_path / "picture").convert("RGB"))
    assert pixels.shape[1] == 1980
    assert pixels.shape[0] > 400 * count
    for color in (ImageColor.getrgb(COLORS[name][0]) for name in ("gray", "teal")):
        assert (pixels == color).all(axis=2).sum() > 1000
