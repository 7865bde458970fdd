"""What runs tell of themselves: their record, the table of all, the page of one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from zoo.errors import BundleError, RecipeError
from zoo.machine import git_state
from zoo.train.attempt import PACKAGES_NAME
from zoo.train.loop.engine import DivergedError, TrainingStoppedError
from zoo.train.loop.hardware import Hardware
from zoo.train.report.page import write_report
from zoo.train.report.story import read_story, warnings
from zoo.train.runs.folder import RunFolder
from zoo.train.runs.listing import find_runs, read_run
from zoo.train.runs.record import KILLED, read_record
from zoo.train.session import resume, start

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

CPU = Hardware("cpu")
HOLD = """
import sys, time
from pathlib import Path
from zoo.train.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
NO_TORCH = """
import sys
from pathlib import Path
from zoo.train.runs.listing import find_runs
assert find_runs(Path(sys.argv[1]))[0]
assert not {"torch", "numpy", "matplotlib"} & sys.modules.keys(), "heavy"
"""


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.train.session.write_curves", lambda *_: None)
        patch.setattr("zoo.train.loop.engine.LOG_EVERY", 2)
        yield


@pytest.fixture(scope="module")
def finished(load_tiny: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run of ten steps; read it only."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    start(load_tiny({"validate_every": 4}), folder, CPU)
    return folder


@pytest.fixture
def stopped(load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run that was asked to stop in its fourth step."""
    folder = tmp_path / "runs" / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr("zoo.train.loop.engine.Engine._any", lambda engine, _: engine.step == 4)
        with pytest.raises(TrainingStoppedError):
            start(load_tiny(), folder, CPU)
    return folder


def edit(folder: Path, **changes: Any) -> None:
    """Change the last attempt in the record of a run."""
    path = RunFolder(folder).record
    record = json.loads(path.read_text())
    record["attempts"][-1] |= changes
    path.write_text(json.dumps(record))


def test_a_finished_run_tells_what_it_was_made_with(finished: Path) -> None:
    record = read_record(finished)
    assert record is not None
    assert record.phases == {"pretrain": 3, "localize": 2, "semi": 5}
    (attempt,) = record.attempts
    assert (attempt.state, attempt.first, attempt.last, attempt.reason) == ("finished", 0, 10, None)
    assert attempt.directory == str(Path.cwd())
    assert attempt.machine["device"] == "cpu"
    assert {"zoo", "python", "torch", "timm", "lightning-fabric"} <= attempt.versions.keys()
    assert f"torch=={attempt.versions['torch']}" in (finished / PACKAGES_NAME).read_text().splitlines()
    assert attempt.git == git_state(Path.cwd())


def test_the_table_tells_steps_figure_lists_and_time(finished: Path) -> None:
    run = read_run(finished)
    metrics = json.loads((finished / "metrics.json").read_text())
    assert (run.method, run.labeled, run.seed, run.step, run.steps) == ("eln", 4, 0, 10, 10)
    assert (run.state, run.protocol, run.evaluated) == ("finished", "whole on val", 10)
    assert run.partition == metrics["partition"]
    assert run.value == pytest.approx(metrics["val"]["miou"], rel=1e-5)
    assert 0 <= run.seconds < 60


def test_a_stopped_run_says_so_and_goes_on_in_a_second_attempt(stopped: Path) -> None:
    run = read_run(stopped)
    assert (run.state, run.step) == ("stopped", 4)
    assert run.reason is not None
    assert run.reason.startswith("stopped after step 4 of 10")
    assert RunFolder(stopped).report.is_file()
    resume(stopped, "eln", CPU)
    record = read_record(stopped)
    assert record is not None
    assert [(each.first, each.last, each.state) for each in record.attempts] == [
        (0, 4, "stopped"),
        (4, 10, "finished"),
    ]
    assert read_run(stopped).state == "finished"


def test_a_run_that_breaks_for_an_unknown_reason_is_recorded_with_the_name_of_its_error(
    load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(*_: Any) -> None:
        raise ValueError("two\nlines")

    monkeypatch.setattr("zoo.train.loop.engine.Engine._record", burst)
    with pytest.raises(ValueError, match="two"):
        start(load_tiny(), tmp_path / "run", CPU)
    run = read_run(tmp_path / "run")
    assert (run.state, run.reason) == ("failed", "ValueError: two lines")
    assert "ValueError: two lines" in RunFolder(tmp_path / "run").report.read_text()


def test_a_loss_that_stays_bad_is_a_failure_and_not_a_stop(
    load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.train.loop.step.torch.isfinite", lambda total: total != total)
    with pytest.raises(DivergedError):
        start(load_tiny({"max_bad_steps": 3}), tmp_path / "run", CPU)
    assert read_run(tmp_path / "run").state == "failed"


def test_an_attempt_that_was_killed_has_failed_and_its_time_ends_with_its_last_file(finished: Path) -> None:
    before = RunFolder(finished).record.read_text()
    ended = json.loads(before)["attempts"][0]["ended"]
    try:
        edit(finished, state="running", ended=None, last=None, pid=1)
        run = read_run(finished)
        record = read_record(finished)
    finally:
        RunFolder(finished).record.write_text(before)
    assert (run.state, run.reason, run.step) == ("failed", KILLED, 10)
    assert record is not None
    assert record.last is not None
    assert record.last.ended is not None
    assert record.last.ended <= ended


@pytest.mark.slow
def test_a_run_is_running_as_long_as_its_process_lives_and_nobody_else_trains_in_it(finished: Path) -> None:
    before = RunFolder(finished).record.read_text()
    edit(finished, state="running", ended=None, last=None)
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(finished)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert read_run(finished).state == "running"
        with pytest.raises(RecipeError, match="being trained by another process"):
            resume(finished, "eln", CPU)
        child.kill()
        child.wait()
        assert read_run(finished).state == "failed"
    finally:
        child.kill()
        child.wait()
        RunFolder(finished).record.write_text(before)


def test_two_hundred_runs_are_listed_within_a_second_newest_first(tmp_path: Path, finished: Path) -> None:
    names = ("recipe.json", "metrics.json", "partition/partition.json")
    record = json.loads(RunFolder(finished).record.read_text())
    rows = "".join(f"{step},0.5,,1e-3\n" for step in range(10, 20_000, 10))
    log = tmp_path / "log.csv"
    log.write_text(f"step,loss/sup,val/miou,lr\n{rows}20000,0.25,0.5,1e-3\n")
    for number in range(200):
        folder = tmp_path / f"run-{number}"
        (folder / "partition").mkdir(parents=True)
        for name in names:
            (folder / name).hardlink_to(finished / name)
        (folder / "log.csv").hardlink_to(log)
        record["attempts"][0]["begun"] = f"2026-11-{number % 28 + 1:02}T10:00:00+00:00"
        RunFolder(folder).record.write_text(json.dumps(record))
    began = time.thread_time()
    runs, unreadable = find_runs(tmp_path)
    assert time.thread_time() - began < 1
    assert (len(runs), unreadable) == (200, [])
    assert {(run.value, run.evaluated) for run in runs} == {(0.5, 20_000)}
    assert [run.begun for run in runs] == sorted((run.begun for run in runs), reverse=True)


def test_runs_of_a_comparison_are_listed_and_a_broken_one_is_left_out_with_the_reason(
    tmp_path: Path, finished: Path
) -> None:
    for place in ("a", "compare-x/runs/eln-0"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "recipe.json").write_bytes((finished / "recipe.json").read_bytes())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "recipe.json").write_text("{}")
    runs, (line,) = find_runs(tmp_path)
    assert {run.path for run in runs} == {str(tmp_path / "a"), str(tmp_path / "compare-x/runs/eln-0")}
    assert {(run.state, run.value, run.step) for run in runs} == {("unknown", None, 0)}
    assert line.startswith(f"{tmp_path / 'b' / 'recipe.json'} is not the recipe of a run")


def test_the_table_loads_no_torch(finished: Path) -> None:
    subprocess.run([sys.executable, "-c", NO_TORCH, str(finished)], check=True)


def test_the_report_stands_alone_with_curves_phases_classes_pictures_and_recipe(finished: Path) -> None:
    page = RunFolder(finished).report.read_text()
    assert re.findall(r'href="(?!#)|https?:|url\((?!#)|<script', page) == []
    assert re.findall(r'src="(?!data:image/png;base64,)', page) == []
    for text in ("Loss terms, weighted", "Learning rate", "Images/s", "pretrain", "localize", "semi"):
        assert text in page
    metrics = json.loads((finished / "metrics.json").read_text())
    assert all(f"<td>{iou:.3f}</td>" in page for iou in metrics["val"]["iou"].values())
    assert page.count("data:image/png") == 1
    assert metrics["partition"] in page
    assert "method.optimizer.lr" in page


def test_the_report_of_an_old_or_unfinished_run_can_be_made(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_bytes((finished / "recipe.json").read_bytes())
    page = write_report(tmp_path).read_text()
    assert 'class="unknown"' in page
    assert "Classes</h2>" not in page


def test_the_report_warns_of_what_makes_figures_doubtful(finished: Path) -> None:
    story = read_story(finished)
    assert story.record is not None
    (attempt,) = story.record.attempts
    clean = attempt.model_copy(update={"git": None})
    other = clean.model_copy(update={"versions": attempt.versions | {"torch": "1.0"}})
    dirty = clean.model_copy(update={"git": {"commit": "a", "branch": "b", "dirty": True, "changed": 3}})
    rows = [{"step": 2.0, "loss/sup": float("nan"), "bad_steps": 2.0}, *story.rows]
    record = story.record.model_copy(update={"attempts": (clean, other, dirty)})
    told = " ".join(text for _, text in warnings(story._replace(rows=rows, record=record)))
    assert "2 steps were skipped" in told
    assert "loss/sup was not finite at 1 logged steps, first at step 2" in told
    assert f"Attempts differ in torch: {attempt.versions['torch']}, then 1.0" in told
    assert "3 files of the working directory were changed" in told
    alone = story.record.model_copy(update={"attempts": (clean,)})
    assert list(warnings(story._replace(record=alone))) == []


def test_lists_that_were_edited_are_told(stopped: Path) -> None:
    with (stopped / "partition" / "labeled.txt").open("a") as file:
        file.write("another\n")
    assert ("bad", True) in [
        (kind, "they were edited" in text) for kind, text in warnings(read_story(stopped))
    ]


def test_a_folder_without_a_run_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no recipe\.json"):
        write_report(tmp_path)
