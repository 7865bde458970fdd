"""Models by name in a working folder that cannot be written to, as in containers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from zoo.cli import app
from zoo.errors import RegistryError
from zoo.registry.lock import read_lock, update_lock
from zoo.registry.pull import fetch
from zoo.registry.push import PushOptions, push

if TYPE_CHECKING:
    from click.testing import Result

SYSTEM = Path("/sys")
"""A folder in which not even root may create files."""

BENCH = ("--quick", "--images", 0, "--imgsz", "32,32", "--backends", "eager")


@pytest.fixture
def name(bundle: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a bundle, in a working folder that cannot be written to."""
    name = f"file:{work.parent}/share/tiny"
    push(bundle, name, PushOptions())
    try:
        (SYSTEM / "zoo.test").touch()
    except PermissionError:
        monkeypatch.chdir(SYSTEM)
        return name
    except OSError as error:
        pytest.skip(f"{SYSTEM} cannot be used: {error}")
    pytest.skip(f"{SYSTEM} is writable")


def zoo(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.exception
    return result


def test_a_pull_warns_that_it_is_not_recorded(name: str, caplog: pytest.LogCaptureFixture) -> None:
    entry = json.loads(zoo("pull", name, "--json").stdout)[0]
    assert Path(entry["folder"], "model.safetensors").is_file()
    assert (
        f"zoo.lock does not record {name}: /sys/zoo.lock cannot be written (Permission denied)" in caplog.text
    )


def test_a_pull_to_another_folder_succeeds(name: str, work: Path) -> None:
    zoo("pull", name, "--out", work / "copy")
    assert (work / "copy/config.json").is_file()


def test_a_lock_that_holds_the_model_already_needs_no_writing(name: str, work: Path, caplog: Any) -> None:
    locked = fetch(name).locked
    update_lock(work / "zoo.lock", name, locked)
    before = {path.name: path.stat().st_mtime_ns for path in work.iterdir()}
    update_lock(work / "zoo.lock", name, locked)
    assert {path.name: path.stat().st_mtime_ns for path in work.iterdir()} == before
    assert read_lock(work / "zoo.lock").models[name] == locked
    assert not caplog.text


def test_a_check_of_a_model_copies_nothing(name: str) -> None:
    assert json.loads(zoo("export", name, "--verify", "--json").stdout)


@pytest.mark.slow
def test_a_benchmark_with_a_report_elsewhere_copies_nothing(name: str, work: Path) -> None:
    zoo("bench", name, *BENCH, "--report", work / "report")
    assert (work / "report/benchmark.json").is_file()


@pytest.mark.parametrize("command", ["export", "bench"])
def test_a_command_that_writes_to_the_model_is_refused_in_one_line(name: str, command: str) -> None:
    result = CliRunner().invoke(app, [command, name])
    assert isinstance(result.exception, RegistryError)
    assert "pulled cannot be read or written" in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_tar_file_that_has_no_place_is_refused_in_one_line(name: str, work: Path) -> None:
    zoo("pull", name, "--bundle", work / "tiny.tar")
    result = CliRunner().invoke(app, ["pull", str(work / "tiny.tar")])
    assert isinstance(result.exception, RegistryError)
    assert "pulled cannot be read or written" in str(result.exception)
    zoo("pull", work / "tiny.tar", "--out", work / "unpacked")
    assert (work / "unpacked/config.json").is_file()
