from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zoo.errors import ZooError
from zoo.suite.record import SuiteFolder, code_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.suite.record import Record

    MakeRecord = Callable[..., Record]

LIMIT = 480.0


def test_a_record_is_read_as_it_was_written(tmp_path: Path, make_record: MakeRecord) -> None:
    folder, record = SuiteFolder(tmp_path / "new"), make_record("machine", {"tflops": {"bf16": 800.0}})
    folder.write(record)
    assert folder.read("machine") == record
    assert [path.name for path in folder.parts.iterdir()] == ["machine.json"]
    assert folder.read("tests") is None


def test_all_records_come_in_the_order_asked_for_then_by_name(
    tmp_path: Path, make_record: MakeRecord
) -> None:
    folder = SuiteFolder(tmp_path)
    for name in ("compare-1-8", "machine", "tests"):
        folder.write(make_record(name))
    assert [record.name for record in folder.read_all(("tests", "train-x"))] == [
        "tests",
        "compare-1-8",
        "machine",
    ]


def test_a_broken_record_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    folder = SuiteFolder(tmp_path)
    folder.parts.mkdir()
    folder.record("machine").write_text('{"format": 1}')
    with pytest.raises(ZooError, match=r"machine\.json: name: Field required: delete it to measure"):
        folder.read("machine")


def test_a_finished_part_is_not_measured_again_while_its_inputs_are_the_same(make_record: MakeRecord) -> None:
    record = make_record("machine")
    assert record.is_current(record.inputs, LIMIT)
    for changes in ({"processor": "another"}, {"code": "0ther"}, {"versions": {"torch": "2.16"}}):
        assert not record.is_current(record.inputs.model_copy(update=changes), LIMIT)


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_a_part_that_did_not_finish_is_measured_again(state: str, make_record: MakeRecord) -> None:
    record = make_record("machine", state=state)
    assert not record.is_current(record.inputs, LIMIT)


def test_a_record_that_says_less_of_the_same_replaces_no_finished_one(make_record: MakeRecord) -> None:
    finished = make_record("machine")
    failed, stopped = (
        make_record("machine", state=state, figures={"a": 1}) for state in ("failed", "stopped")
    )
    assert finished.replaces(finished)
    assert not failed.replaces(finished)
    assert not stopped.replaces(finished)
    assert failed.replaces(stopped)
    assert stopped.replaces(None)
    assert not make_record("machine", state="stopped", figures=None).replaces(failed)
    outdated = finished.model_copy(update={"inputs": finished.inputs.model_copy(update={"code": "0ther"})})
    assert failed.replaces(outdated)


def test_a_part_that_overran_is_measured_again_with_more_time_alone(make_record: MakeRecord) -> None:
    record = make_record("train-eln-resnet50", state="overran", limit_s=LIMIT)
    assert record.is_current(record.inputs, LIMIT)
    assert not record.is_current(record.inputs, 2 * LIMIT)


def test_a_comparison_that_overran_goes_on(make_record: MakeRecord) -> None:
    record = make_record("compare-1-8", state="overran", limit_s=LIMIT)
    assert not record.is_current(record.inputs, LIMIT)


def test_the_digest_of_code_changes_with_its_sources_alone(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/step.py").write_text("step = 1\n")
    (tmp_path / "train").symlink_to("real")
    (tmp_path / "card.py").write_text("card = 1\n")
    before, everything = code_digest(("train",), tmp_path), code_digest(("",), tmp_path)

    (tmp_path / "card.py").write_text("card = 2\n")
    (tmp_path / "real/notes.txt").write_text("not code")
    assert code_digest(("train",), tmp_path) == before
    assert code_digest(("",), tmp_path) != everything
    everything = code_digest(("",), tmp_path)

    (tmp_path / "real/step.py").write_text("step = 2\n")
    assert code_digest(("train",), tmp_path) != before
    assert code_digest(("",), tmp_path) != everything
