from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from zoo.errors import ZooError
from zoo.suite.parts import Settings, plan
from zoo.suite.record import SuiteFolder
from zoo.suite.run import Job, check_device, command, current_inputs, run_parts, states, work_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.suite.record import Record

    MakeRecord = Callable[..., Record]

QUICK = Settings(device="cpu", quick=True)


def test_the_cpu_is_not_measured_in_earnest() -> None:
    with pytest.raises(ZooError, match="measures a GPU at the size of the papers, got the CPU: run it where"):
        check_device(Settings(device="cpu"))
    check_device(QUICK)


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ZooError, match="torch finds no GPU here, expected one: use --device cpu --quick"):
        check_device(Settings(device="cuda"))


def test_the_command_of_a_part_measures_that_part_alone(tmp_path: Path) -> None:
    job = Job(SuiteFolder(tmp_path / "my results"), QUICK.model_copy(update={"data": "my data"}))
    words = shlex.split(command(job, "train-*"))
    assert words[:5] == ["zoo", "bench", "--suite", "--parts", "train-*"]
    assert words[5:] == [
        "--out", str(tmp_path / "my results"), "--quick", "--device", "cpu", "--data", "my data",
    ]  # fmt: skip


def test_a_part_is_to_do_then_as_it_is_recorded_then_outdated(
    tmp_path: Path, make_record: MakeRecord
) -> None:
    job, parts = Job(SuiteFolder(tmp_path), QUICK), plan(QUICK)
    inputs = current_inputs(parts, QUICK)
    assert set(states(job, parts).values()) == {"to do"}
    job.folder.write(make_record("machine").model_copy(update={"inputs": inputs["machine"]}))
    assert states(job, parts)["machine"] == "finished"
    changed = inputs["machine"].model_copy(update={"code": "0ther"})
    job.folder.write(make_record("machine").model_copy(update={"inputs": changed}))
    assert states(job, parts)["machine"] == "outdated"


def test_finished_parts_are_not_measured_again(tmp_path: Path, make_record: MakeRecord) -> None:
    job, parts = Job(SuiteFolder(tmp_path), QUICK), plan(QUICK)
    inputs = current_inputs(parts, QUICK)
    records = [make_record(part.name).model_copy(update={"inputs": inputs[part.name]}) for part in parts]
    for record in records:
        job.folder.write(record)
    said: list[str] = []
    assert run_parts(job, parts, said.append, said.append) == tuple(records)
    assert said == []


def test_a_comparison_with_other_inputs_has_another_folder(tmp_path: Path, make_record: MakeRecord) -> None:
    inputs = make_record("compare-1-8").inputs
    other = inputs.model_copy(update={"code": "0ther"})
    first, second = (work_folder(tmp_path / "gpu", "compare-1-8", each) for each in (inputs, other))
    assert first != second
    assert first == work_folder(tmp_path / "gpu", "compare-1-8", inputs)
    assert first.parent.as_posix() == "runs/suite/gpu"
