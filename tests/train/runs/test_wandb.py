"""Runs logged to W&B offline, by the real package, read back from its own files."""

from __future__ import annotations

import json
import re
import struct
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import wandb
from typer.testing import CliRunner

from zoo.cli import app
from zoo.errors import BundleError, RecipeError
from zoo.train.loop.hardware import Hardware
from zoo.train.methods.eln.eln import Eln
from zoo.train.runs import wandb as wandb_log
from zoo.train.runs.log import read_log
from zoo.train.runs.wandb import FILE_NAME, check_wandb, logged_to_wandb, read_wandb_run
from zoo.train.session import resume, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zoo.train.method import Progress
    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

CPU = Hardware("cpu")
HEADER, BLOCK, RECORD = 7, 32768, struct.Struct("<IHB")
WHOLE, LAST = 1, 4
CUT_AT = 6


class PowerCutError(Exception):
    """What ends a process without a word, in these tests."""


class Told(NamedTuple):
    """What W&B keeps of an attempt."""

    project: str
    id: str
    config: dict[str, Any]
    rows: dict[int, dict[str, float]]
    summary: dict[str, Any]
    exit_code: int
    pictures: set[str]


def records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a `.wandb` file, which is a log of LevelDB behind a header of seven bytes."""
    at, record = HEADER, b""
    while at + RECORD.size <= len(data):
        if (left := BLOCK - at % BLOCK) < RECORD.size:
            at += left
            continue
        _, length, kind = RECORD.unpack_from(data, at)
        at += RECORD.size + length
        record += data[at - length : at]
        if kind in (WHOLE, LAST):
            yield record
            record = b""


def values(items: Any) -> dict[str, Any]:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def told(run: Path, mode: str = "offline-run") -> list[Told]:
    """Return what the attempts of a run told W&B, in their order."""
    from wandb.proto import wandb_internal_pb2

    attempts = []
    for folder in sorted((run / "wandb").glob(f"{mode}-*")):
        (path,) = folder.glob("*.wandb")
        found = Told("", "", {}, {}, {}, -1, {each.name.split("_")[0] for each in folder.rglob("*.png")})
        for record in map(wandb_internal_pb2.Record.FromString, records(path.read_bytes())):
            if record.HasField("run"):
                found = found._replace(project=record.run.project, id=record.run.run_id)
                found.config.update(values(record.run.config.update))
            if record.HasField("history"):
                row = values(record.history.item)
                found.rows[row.pop("_step")] = row
            found.summary.update(values(record.summary.update))
            if record.HasField("exit"):
                found = found._replace(exit_code=record.exit.exit_code)
        attempts.append(found)
    return attempts


def losses(run: Path) -> list[dict[int, float]]:
    """Return the loss by step that each attempt of a run told W&B."""
    return [{step: row["loss/s"] for step, row in attempt.rows.items()} for attempt in told(run)]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("zoo.train.loop.engine.LOG_EVERY", 1)


@pytest.fixture
def cut_power(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the seventh step fail, once."""
    after_step = Eln.after_step

    def wrapped(method: Eln, progress: Progress) -> None:
        if progress.step == CUT_AT:
            monkeypatch.setattr(Eln, "after_step", after_step)
            raise PowerCutError
        after_step(method, progress)

    monkeypatch.setattr(Eln, "after_step", wrapped)


@pytest.mark.slow
@pytest.mark.usefixtures("cut_power")
def test_a_run_cut_off_and_resumed_is_one_run_in_wandb_with_every_figure(
    load_tiny: Load, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    recipe = load_tiny({"validate_every": 4, "checkpoint_every": 3})
    with pytest.raises(PowerCutError):
        start(recipe, run, CPU, "trials")
    metrics = resume(run, "eln", CPU)

    first, second = told(run)
    kept = read_wandb_run(run)
    assert kept is not None
    assert {first.project, second.project, kept.project} == {"trials"}
    assert first.id == second.id == kept.id
    assert list(first.rows) == [1, 2, 3, 4, 5, 6]
    assert list(second.rows) == [7, 8, 9, 10]
    resumed_from = 3  # of the rows that came again, the first are kept; they differ in the speed alone
    for row in read_log(run / "log.csv"):
        step = int(row.pop("step"))
        if resumed_from < step <= CUT_AT:
            del row["images_per_s"]
        got = (first.rows | second.rows)[step]
        six_digits = pytest.approx(row, rel=1e-5)
        assert {name: got[name] for name in row} == six_digits
    assert second.config["method"]["name"] == "eln"
    assert second.config["data"]["imgsz"] == [32, 32]
    assert second.summary["final"]["val"]["miou"] == metrics["val"]["miou"]
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert (first.pictures, second.pictures) == (set(), {"preview", "curves"})


@pytest.mark.slow
def test_a_server_out_of_reach_does_not_stop_a_run_whose_figures_wait_in_its_folder(
    load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    start(load_tiny(steps=4), tmp_path / "run", CPU, "trials")
    (warning,) = ours(caplog)
    assert warning.startswith("W&B is offline (CommError: ")
    (attempt,) = told(tmp_path / "run")
    assert list(attempt.rows) == [1, 2, 3, 4]


def write_run(folder: Path) -> None:
    """Write what is read of a run."""
    (folder / "recipe.json").write_text('{"recipe": {"seed": 7}}')
    (folder / "metrics.json").write_text('{"val": {"miou": 0.5}, "curve": [[3, 0.5]]}')


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return our own remarks; pytest also catches what W&B writes into its own log files."""
    return [record.getMessage() for record in caplog.records if record.name == wandb_log.__name__]


def test_the_figures_from_before_wandb_was_asked_for_are_logged_too(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "log.csv").write_text("step,loss/s\n3,0.5\n4,0.2")  # of which a line is being written
    with logged_to_wandb(tmp_path, "trials") as write:
        assert write is not None
        write(3, {"loss/s": 0.125})
        write(4, {"loss/s": 0.25})
    assert losses(tmp_path) == [{3: 0.5, 4: 0.25}]


def test_an_error_of_wandb_ends_no_run_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(tmp_path)
    excepthook = sys.excepthook
    with logged_to_wandb(tmp_path, "trials") as write:
        assert write is not None
        write(1, {"loss/s": 0.5})
        assert wandb.run is not None
        wandb.run.finish()
        for step in range(2, 9):
            write(step, {"loss/s": 0.5})
    _, warning = ours(caplog)
    assert warning.startswith("W&B logs no more of this run (UsageError: ")
    assert losses(tmp_path) == [{1: 0.5}]
    assert sys.excepthook is excepthook  # W&B's would print tracebacks twice


def test_what_the_environment_says_of_wandb_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("WANDB_NAME", "mine")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "17")
    write_run(tmp_path)
    with logged_to_wandb(tmp_path, "trials"):
        assert wandb.run is not None
        assert (wandb.run.name, wandb.run.settings.init_timeout) == ("mine", 17.0)
        assert wandb.run.settings.finish_timeout == wandb_log.SETTINGS["finish_timeout"]
    assert len(told(tmp_path / "elsewhere")) == 1
    assert not (tmp_path / "wandb").exists()


def test_a_run_that_wandb_is_not_asked_for_never_loads_it(
    load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # to import it fails
    start(load_tiny(steps=4), tmp_path / "run", CPU)
    assert not (tmp_path / "run" / FILE_NAME).exists()
    assert not (tmp_path / "run/wandb").exists()


def test_a_missing_package_is_told_before_anything_is_trained(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    out = tmp_path / "run"
    words = ["train", "eln", "--recipe", str(tiny_recipe), "--wandb", "trials", "--device", "cpu"]
    result = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert isinstance(result.exception, RecipeError)
    assert re.fullmatch(
        r"--wandb needs wandb \([^\n]*\): pip install 'semiseg-zoo\[wandb\]'", str(result.exception)
    )
    assert not out.exists()


def test_a_run_goes_on_without_a_package_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).write_text('{"project": "trials", "id": "abc"}')
    monkeypatch.setitem(sys.modules, "wandb", None)
    with logged_to_wandb(tmp_path, None) as write:
        assert write is not None
        write(1, {"loss/s": 0.5})
    (warning,) = ours(caplog)
    assert warning.startswith("W&B logs no more of this run (ModuleNotFoundError: ")


@pytest.mark.parametrize("project", ["team/trials", "", "a" * 129])
def test_a_name_that_wandb_refuses_is_refused_before(project: str) -> None:
    with pytest.raises(RecipeError, match="--wandb: Invalid project name"):
        check_wandb(project)


def test_a_run_stays_in_its_project(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('{"project": "trials", "id": "abc"}')
    check_wandb("trials", tmp_path)
    with pytest.raises(RecipeError, match="a run of the W&B project trials, got --wandb other"):
        check_wandb("other", tmp_path)


def test_a_file_that_names_no_run_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("{}")
    with pytest.raises(BundleError, match=r"wandb\.json names no W&B run .*: remove it"):
        read_wandb_run(tmp_path)
