from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import pytest

from zoo.train.runs.log import TrainLog, read_log

if TYPE_CHECKING:
    from pathlib import Path


def lines(folder: Path) -> list[list[str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.reader(file))


def write(folder: Path, start: int, steps: range) -> None:
    log = TrainLog(folder, start)
    for step in steps:
        log.write(step, {"loss": step / 8})
    log.close()


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 4))
    assert lines(tmp_path) == [["step", "loss"], ["1", "0.125"], ["2", "0.25"], ["3", "0.375"]]
    assert read_log(tmp_path / "log.csv") == [{"step": s, "loss": s / 8} for s in (1.0, 2.0, 3.0)]


def test_a_log_continues_without_the_rows_that_come_again(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 8))
    write(tmp_path, 4, range(5, 10))
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == list(range(1, 10))
    assert len(lines(tmp_path)) == 10


def test_a_new_figure_is_a_new_column_empty_before(tmp_path: Path) -> None:
    log = TrainLog(tmp_path, 0)
    log.write(1, {"sup": 1.0})
    log.write(2, {"sup": 0.5, "aux": 2.0})
    log.write(3, {"aux": 1.0})
    assert lines(tmp_path) == [["step", "sup", "aux"], ["1", "1", ""], ["2", "0.5", "2"], ["3", "", "1"]]
    assert read_log(tmp_path / "log.csv")[2] == {"step": 3, "aux": 1}


def test_the_columns_of_a_resumed_log_are_kept(tmp_path: Path) -> None:
    log = TrainLog(tmp_path, 0)
    log.write(1, {"sup": 1.0})
    log.write(2, {"val/miou": 0.5})
    resumed = TrainLog(tmp_path, 2)
    resumed.write(3, {"sup": 0.25, "eln": 3.0})
    assert lines(tmp_path)[0] == ["step", "sup", "val/miou", "eln"]
    assert lines(tmp_path)[-1] == ["3", "0.25", "", "3"]


@pytest.mark.parametrize("figures", [{"loss": float("nan")}, {"loss": float("inf")}])
def test_a_figure_that_is_not_finite_is_kept(figures: dict[str, float], tmp_path: Path) -> None:
    TrainLog(tmp_path, 0).write(1, figures)
    (row,) = read_log(tmp_path / "log.csv")
    assert repr(row["loss"]) == repr(figures["loss"])


def test_a_large_step_is_not_rounded(tmp_path: Path) -> None:
    TrainLog(tmp_path, 0).write(1_234_567, {"loss": 1.0})
    assert read_log(tmp_path / "log.csv")[0]["step"] == 1_234_567


def test_a_row_cut_off_by_a_power_failure_is_dropped(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 4))
    path = tmp_path / "log.csv"
    path.write_bytes(path.read_bytes()[: -len("3,0.375\r\n")] + b"\r\n")
    write(tmp_path, 2, range(3, 5))
    assert [row["step"] for row in read_log(path)] == [1, 2, 3, 4]


def test_there_are_no_rows_without_a_file(tmp_path: Path) -> None:
    assert read_log(tmp_path / "log.csv") == []


def test_every_figure_goes_to_tensorboard(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 3))
    assert list((tmp_path / "tensorboard").glob("events*"))
