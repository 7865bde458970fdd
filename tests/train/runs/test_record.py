"""The parts of a run's record: its lock, the state of the code, the tail of its log."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from zoo.errors import BundleError
from zoo.machine import git_state
from zoo.train.runs.folder import RunFolder
from zoo.train.runs.listing import last_figures
from zoo.train.runs.lock import LOCK_NAME, is_locked, locked
from zoo.train.runs.record import read_record


def test_looking_at_a_lock_of_this_process_does_not_give_it_up(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert is_locked(tmp_path)
        assert is_locked(tmp_path)
    assert (tmp_path / LOCK_NAME).is_file()
    assert not is_locked(tmp_path)


def test_the_last_evaluation_is_found_above_later_rows_and_half_a_row(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss/sup,val/miou\n10,1.5,\n20,1.0,0.25\n30,0.5,\n40,1.0,0.2")
    row, evaluated = last_figures(path)
    assert (row["step"], evaluated) == (30, {"step": 20, "loss/sup": 1.0, "val/miou": 0.25})
    assert last_figures(tmp_path / "none") == ({}, {})


def test_a_record_that_is_none_is_an_error_of_one_line(tmp_path: Path) -> None:
    RunFolder(tmp_path).record.write_text('{"phases": 1}')
    with pytest.raises(BundleError, match=r"run\.json is not the record of a run \(phases") as caught:
        read_record(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_state_of_a_repository_is_told_and_its_absence_is_no_failure(tmp_path: Path) -> None:
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert git_state(tmp_path) is None
    git("init", "--initial-branch=trunk")
    (tmp_path / "code.py").write_text("1")
    assert git_state(tmp_path) == {"commit": None, "branch": "trunk", "dirty": False, "changed": 0}
    git("add", ".")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD").strip()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "log.csv").write_text("")
    assert git_state(tmp_path) == {"commit": commit, "branch": "trunk", "dirty": False, "changed": 0}
    (tmp_path / "code.py").write_text("2")
    git("checkout", "--detach")
    assert git_state(tmp_path) == {"commit": commit, "branch": None, "dirty": True, "changed": 1}


def test_a_machine_without_git_still_has_a_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path.cwd()) is None
