from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from zoo.suite.record import SuiteFolder
from zoo.suite.report import Made, write_report
from zoo.suite.tables import INFERENCE, TRAINING, inference, markdown, training

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.suite.record import Record

    MakeRecord = Callable[..., Record]

PICTURES = ["training.png", "latency.png", "roofline.png"]
MADE = Made("zoo bench --suite", "2026-11-21T12:00:00+00:00", ("machine", "train-rrn-resnet50"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, gpu_records: tuple[Record, ...]) -> Path:
    """Return a folder with the records of a GPU and their report; read it only."""
    folder = SuiteFolder(tmp_path_factory.mktemp("suite") / "a-gpu")
    for record in gpu_records:
        folder.write(record)
    files = write_report(folder, MADE)
    assert {path.name for path in files} == {"README.md", "suite.json", *PICTURES}
    return folder.path


@pytest.fixture
def page(written: Path) -> str:
    """Return the page of the report."""
    return (written / "README.md").read_text()


def test_the_report_shows_aims_machine_training_inference_tests_and_parts(page: str) -> None:
    assert page.startswith("# Measured on A GPU\n")
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert headings == ["Aims", "Machine", "Training", "Inference", "Tests", "Parts"]
    assert (
        "| training: loss terms, at most 15% of a step | 20.0% (u2pl resnet50, the worst of 2) | no |" in page
    )
    assert "| products of matrices, bf16 | 800 TFLOP/s |" in page
    assert "GPU after: clocks.sm 1410 MHz, held down by power cap and idle" in page
    assert "14 passed, 1 failed, 0 skipped" in page
    assert "- `tests.a::b`: assert 1 == 2" in page
    assert "| machine | finished | 1 min 1 s | 2026-11-21T10:00:00 | 01234567 |  |" in page
    assert "Not measured: train-rrn-resnet50." in page
    assert "Quick" not in page


def test_every_table_names_the_command_that_measures_it_again(page: str) -> None:
    for pattern in ("machine", "'train-*'", "infer-deeplabv3plus-r50-512x512", "tests"):
        assert f"`zoo bench --suite --parts {pattern} --out results --device cuda`" in page


def test_what_could_not_be_measured_is_told_with_its_reason(page: str) -> None:
    assert "- no figures: eln resnet50, bf16, compile: no compiler" in page
    assert "- no figures: trt of deeplabv3plus-r50 at 512x512, batch 1: TensorRT is not installed" in page
    assert "- no figures: infer-deeplabv3plus-r50-512x512 at batch 4: out of memory" in page


def test_the_json_holds_every_record_and_the_aims(written: Path, gpu_records: tuple[Record, ...]) -> None:
    found = json.loads((written / "suite.json").read_text())
    assert {part["name"] for part in found["parts"]} == {record.name for record in gpu_records}
    assert found["missing"] == ["train-rrn-resnet50"]
    assert len(found["aims"]) == 6


def test_the_pictures_are_linked_and_there(written: Path, page: str) -> None:
    assert re.findall(r"!\[[^]]+\]\(([^)]+)\)", page) == PICTURES
    for name in PICTURES:
        with Image.open(written / name) as picture:
            assert min(picture.size) > 200


def test_a_report_of_nothing_says_so(tmp_path: Path) -> None:
    write_report(SuiteFolder(tmp_path), MADE)
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("# Measured on no machine yet\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "suite.json"]


def test_a_quick_look_warns(tmp_path: Path, make_record: MakeRecord) -> None:
    folder = SuiteFolder(tmp_path)
    folder.write(make_record("machine", state="failed", inputs={"options": {"quick": True}}))
    write_report(folder, MADE)
    assert "No figure here says how fast the project is" in (tmp_path / "README.md").read_text()


def test_a_comparison_is_shown_and_its_report_is_copied(tmp_path: Path, make_record: MakeRecord) -> None:
    source = tmp_path / "runs/curves.png"
    source.parent.mkdir()
    source.write_bytes(b"a picture")
    figures = {
        "headline": "eln is best.",
        "columns": ["method", "mIoU"],
        "rows": [["supervised", "0.5"], ["eln", "0.6"]],
        "unfinished": ["rrn-0 stopped"],
        "files": [str(source), str(tmp_path / "gone.png")],
    }
    folder = SuiteFolder(tmp_path / "a-gpu")
    options = {"data": "camvid", "partition": "1/8"}
    folder.write(make_record("compare-1-8", figures, state="overran", inputs={"options": options}))
    write_report(folder, MADE)
    page = (folder.path / "README.md").read_text()
    assert "### camvid, partition 1/8\n\neln is best.\n\n| method | mIoU |" in page
    assert "- no figures: rrn-0 stopped" in page
    assert "](compare-1-8/curves.png)" in page
    assert (folder.path / "compare-1-8/curves.png").read_bytes() == b"a picture"


def test_a_row_of_training_has_all_that_the_aims_are_of(gpu_records: tuple[Record, ...]) -> None:
    tables = training(gpu_records, {"tflops": {"bf16": 800.0}})
    [(title, (head, rows)), _] = tables.items()
    assert title.startswith(
        "eln resnet50: deeplabv3plus resnet50, output stride 16, 512x512, 6 labeled and 6"
    )
    last = dict(zip(head, rows[-1], strict=True))
    assert head == TRAINING
    assert last["variant"] == "bf16, channels last"
    assert last["x plain"] == "3.00x"
    assert last["peak memory GiB"] == "20.00"
    assert last["loss terms"] == "14.0%"
    assert (last["TFLOP/s"], last["of bf16 peak"]) == ("100", "12.5%")  # 20 TFLOP in 200 ms


def test_a_row_of_inference_says_how_far_from_the_roofline_it_is(gpu_records: tuple[Record, ...]) -> None:
    [(title, (head, rows))] = inference(gpu_records).items()
    assert title == "deeplabv3plus-r50, 512x512"
    assert head == INFERENCE
    found = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert found["ort:fp16"]["x eager"] == "5.00x"
    assert (
        found["ort:fp16"]["roofline ms"] == "0.100"
    )  # 80 GFLOP at 800 TFLOP/s and 300 MB at 3 TB/s are even
    assert found["ort:fp16"]["x roofline"] == "64.0x"
    assert found["eager"]["bound by"] == "compute (tf32)"
    assert found["eager"]["agreement"] == "99.950%"


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    assert markdown((("a", "b"), [("x|y", "1\n2")])) == "| a | b |\n| --- | --: |\n| x\\|y | 1 2 |"
