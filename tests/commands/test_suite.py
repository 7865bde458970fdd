"""`zoo bench --suite` as a user calls it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from zoo.commands.suite import default_folder
from zoo.errors import ZooError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

    Zoo = Callable[..., Result]

SUITE = ("bench", "--suite", "--quick", "--device", "cpu")


@pytest.mark.slow
def test_a_suite_keeps_what_is_finished_tells_what_failed_and_goes_on(
    zoo: Zoo, tiny_folder: Path, tmp_path: Path
) -> None:
    first = zoo(*SUITE, "--out", "results", "--parts", "machine")
    assert first.exit_code == 0, first.output
    machine = Path("results/parts/machine.json")
    before = machine.stat().st_mtime_ns

    broken = shutil.copytree(tiny_folder, tmp_path / "broken")
    (broken / "train/images/3.png").write_bytes(b"no image")
    parts = "compare-2,machine,infer-deeplabv2-*"
    second = zoo(*SUITE, "--out", "results", "--parts", parts, "--data", broken, "--json")
    assert isinstance(second.exception, ZooError)
    assert "1 of 3 parts are not finished (compare-2 failed: " in str(second.exception)
    assert "correct the cause and give the same command again" in str(second.exception)
    assert machine.stat().st_mtime_ns == before
    assert "3.png" in Path("runs/suite/results/compare-2.log").read_text()

    found = {part["name"]: part for part in json.loads(second.stdout)["parts"]}
    assert found["machine"]["state"] == "finished"
    assert found["compare-2"]["state"] == "failed"
    assert "3.png" in found["compare-2"]["reason"]
    figures = found["infer-deeplabv2-tiny-64x64"]["figures"]
    measured = {(row["backend"], row["batch"]) for row in figures["rows"] if row["end_to_end_ms"]}
    assert {("eager", 1), ("ort", 1), ("eager", 2), ("ort", 2)} <= measured
    assert min(row["agreement"] for row in figures["rows"] if row["backend"] == "ort") > 0.99
    assert figures["work"]["flops"] > 1e6

    page = Path("results/README.md").read_text()
    assert "| ort:fp32 | 2 |" in page
    assert "| products of matrices, fp32 |" in page
    assert "| compare-2 | failed |" in page
    assert "| training: host syncs in a step, none | not measured | not measured |" in page
    assert Path("results/roofline.png").is_file()


def test_the_parts_are_listed_with_their_state(zoo: Zoo) -> None:
    result = zoo(*SUITE, "--list", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found.values()) == {"to do"}
    assert {"machine", "tests", "train-u2pl-test_resnet", "infer-gated-tiny-64x64"} <= found.keys()
    assert not Path("runs").exists()


def test_results_that_cannot_be_written_are_an_error_before_the_work(zoo: Zoo) -> None:
    Path("file").touch()
    result = zoo(*SUITE, "--parts", "machine", "--out", "file/results")
    assert isinstance(result.exception, ZooError)
    assert "file/results cannot be written (Not a directory), expected a folder" in str(result.exception)


def test_the_cpu_is_refused_in_one_line(zoo: Zoo) -> None:
    result = zoo("bench", "--suite", "--device", "cpu")
    assert isinstance(result.exception, ZooError)
    assert "add --quick to see that it works" in str(result.exception)


def test_a_part_that_is_not_there_is_an_error(zoo: Zoo) -> None:
    result = zoo(*SUITE, "--parts", "trian-*")
    assert isinstance(result.exception, ZooError)
    assert "--parts trian-* names no part" in str(result.exception)


def test_data_that_cannot_be_used_are_an_error_before_anything_is_measured(zoo: Zoo) -> None:
    result = zoo(*SUITE, "--data", "nowhere")
    assert isinstance(result.exception, ZooError)
    assert "nowhere" in str(result.exception)
    assert not Path("runs").exists()


def test_a_broken_record_is_an_error_before_anything_is_measured(zoo: Zoo) -> None:
    Path("results/parts").mkdir(parents=True)
    Path("results/parts/tests.json").write_text("{}")
    result = zoo(*SUITE, "--out", "results", "--parts", "machine")
    assert isinstance(result.exception, ZooError)
    assert "tests.json: name: Field required: delete it to measure that part anew" in str(result.exception)
    assert not Path("results/parts/machine.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((*SUITE, "runs/eln"), "the suite takes no MODEL: leave it out"),
        ((*SUITE, "--batch", "4"), "the suite takes no --batch: leave it out"),
        ((*SUITE, "--clients", "1,2"), "the suite takes no --clients: leave it out"),
        ((*SUITE, "--parts", ","), "names no part, expected e.g. machine,train-*"),
        (("bench", "--out", "here"), "a benchmark without --suite takes no --out: leave it out"),
        (("bench", "--again"), "a benchmark without --suite takes no --again: leave it out"),
        (("bench", "--list"), "a benchmark without --suite takes no --list: leave it out"),
    ],
)
def test_an_option_that_does_not_belong_is_a_usage_error(
    zoo: Zoo, options: tuple[str, ...], message: str
) -> None:
    result = zoo(*options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_results_of_a_quick_look_are_not_put_among_those_that_count() -> None:
    assert default_folder("cpu", quick=True) == Path("runs/suite-quick-cpu")
    assert default_folder("cpu", quick=False).parent == Path("docs/results")
