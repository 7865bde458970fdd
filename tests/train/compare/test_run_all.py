"""How the runs of a comparison go: each in a process of its own, here a small program in place of `zoo`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from zoo.errors import RecipeError
from zoo.train.compare import run_one
from zoo.train.compare.record import Candidate, Comparison, ComparisonFolder
from zoo.train.compare.run_all import newest, run_all
from zoo.train.compare.run_one import LOG_NAME, planned_runs
from zoo.train.loop.engine import TrainingStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Plan = Callable[..., ComparisonFolder]

PROGRAM = """
import json, os, pathlib, signal, sys, time

def save(number, frame):
    (out / "last.ckpt").touch()
    sys.exit("error: stopped after step 3 of 9, which is saved: continue")

signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
method, arguments = sys.argv[2], sys.argv[3:]
out = pathlib.Path(arguments[arguments.index("--out") + 1])
(out / "calls.txt").open("a").write(" ".join(sys.argv[1:]) + "\\n")
(out / "threads.txt").write_text(str(os.environ.get("OMP_NUM_THREADS")))
print("working", file=sys.stderr, flush=True)
if method == "meets" and "start" not in out.name:
    deadline = time.monotonic() + 30
    seed = out.name.rpartition("-")[2]
    others = [out.with_name(f"good-{seed}"), out.with_name(f"start-{1 - int(seed)}")]
    while not any((each / "calls.txt").exists() for each in others):
        assert time.monotonic() < deadline, "alone"
        time.sleep(0.01)
if "--resume" not in arguments:
    assert not (out / "recipe.json").exists()
    (out / "recipe.json").touch()
    if method.startswith("waits"):
        time.sleep(60)
    if method == "fails":
        sys.exit("error: got none, expected some: do this")
    if method == "crashes":
        raise RuntimeError("a bug")
    if method == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
(out / "bundle").mkdir()
(out / "bundle" / "config.json").touch()
curve = [[1, 0.25], [2, 0.5]]
val = {"miou": 0.5, "iou": {"a": 0.25, "b": None}}
memory = {"mib": 100.0, "kind": "somewhere"}
metrics = {"val": val, "curve": curve, "peak_memory": memory, "step_ms": {"train": 2.0}, "networks": {}}
(out / "metrics.json").write_text(json.dumps(metrics))
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Return a function that writes a comparison of methods whose names say what their runs do.

    `start` is a warm start that all others continue; `start=` names the method by which it is trained.
    """
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    monkeypatch.setattr(run_one, "PROGRAM", (sys.executable, str(program)))

    def plan(
        *methods: str,
        seeds: tuple[int, ...] = (0,),
        name: str = "c",
        start: str | None = None,
        looks: tuple[int, ...] = (1,),
    ) -> ComparisonFolder:
        folder = ComparisonFolder(tmp_path / name)
        facts: dict[str, Any] = {"timestamp": "now", "command": "zoo compare", "machine": {}, "versions": {}}
        details: dict[str, Any] = {"recipe": "r", "phases": {"train": 9}, "overridden": {}, "trained": 2}
        details |= {"networks": ("student",), "kept": {"student": 1}}
        starts = [] if start is None else [Candidate(name="start", method=start, role="start", **details)]
        details["starts"] = tuple(each.name for each in starts)
        candidates = (*starts, *(Candidate(name=method, method=method, **details) for method in methods))
        comparison = Comparison(
            **facts,
            device="cpu",
            data={"classes": ["a", "b"]},
            settings={},
            looks=looks,
            candidates=candidates,
            runs=planned_runs(folder, candidates, seeds, "cpu"),
        )
        folder.write(comparison)
        return folder

    return plan


def states(comparison: Comparison) -> dict[str, str]:
    return {run.name: run.state for run in comparison.runs}


def calls(folder: ComparisonFolder, name: str) -> list[str]:
    return (folder.path / "runs" / name / "calls.txt").read_text().splitlines()


def stop_when_working(
    folder: ComparisonFolder,
    name: str,
    before: Callable[[], None],
    number: signal.Signals = signal.SIGTERM,
) -> threading.Thread:
    """Start a thread that calls `before` and sends a signal once the run of this name works."""
    log = folder.path / "runs" / name / LOG_NAME

    def stop() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not (log.exists() and log.read_text()):
            time.sleep(0.01)
        before()
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    return thread


def test_each_run_trains_its_method_and_seed_in_its_folder(plan: Plan) -> None:
    folder = plan("good", "fine", seeds=(0, 7))
    comparison = run_all(folder)
    assert set(states(comparison).values()) == {"finished"}
    path = folder.path
    (call,) = calls(folder, "fine-7")
    recipe, out = f"{path}/recipes/fine.toml", f"{path}/runs/fine-7"
    assert call == f"train fine --recipe {recipe} --seed 7 --no-export-check --out {out} --device cpu"
    assert comparison.runs[0].metrics is not None
    assert comparison.runs[0].metrics["val"]["miou"] == 0.5
    assert comparison.runs[0].attempts == 1
    assert comparison.runs[0].wall_s > 0


def test_all_that_is_known_is_on_disk(plan: Plan) -> None:
    folder = plan("good")
    comparison = run_all(folder)
    assert folder.read() == comparison
    assert json.loads(folder.record.read_text())["summary"]["rows"][0]["miou"]["mean"] == 0.5


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("fails", "got none, expected some: do this"),
        ("crashes", "RuntimeError: a bug"),
        ("killed", "killed by SIGKILL; working"),
    ],
)
def test_a_failed_run_says_why_and_does_not_end_the_others(method: str, reason: str, plan: Plan) -> None:
    folder = plan(method, "good")
    comparison = run_all(folder)
    assert states(comparison) == {f"{method}-0": "failed", "good-0": "finished"}
    assert comparison.runs[0].reason == reason
    assert (folder.run(comparison.runs[0]) / LOG_NAME).read_text().startswith("working\n")


def test_a_finished_run_is_kept_and_a_failed_one_begins_again(plan: Plan) -> None:
    folder = plan("fails", "good")
    run_all(folder)
    comparison = run_all(folder)
    assert states(comparison) == {"fails-0": "failed", "good-0": "finished"}
    assert len(calls(folder, "good-0")) == 1
    assert comparison.runs[0].attempts == 2
    assert "--resume" not in calls(folder, "fails-0")[-1]  # it had no checkpoint


def test_a_failed_run_goes_on_from_its_checkpoint(plan: Plan) -> None:
    folder = plan("fails")
    failed = run_all(folder).runs[0]
    (folder.run(failed) / "last.ckpt").touch()
    finished = run_all(folder).runs[0]
    assert (finished.state, finished.reason, finished.attempts) == ("finished", None, 2)
    assert finished.wall_s >= failed.wall_s
    assert calls(folder, "fails-0")[1] == f"train fails --resume --out {folder.run(failed)} --device cpu"


def test_an_attempt_whose_end_nobody_saw_is_not_taken_for_timed(plan: Plan) -> None:
    folder = plan("good", "fails")
    planned = folder.read()
    run_all(folder)
    begun = [run.model_copy(update={"attempts": 1, "untimed": 1}) for run in planned.runs]
    folder.write(planned.model_copy(update={"runs": tuple(begun)}))  # as if the power went in both
    good, fails = run_all(folder).runs
    assert (good.state, good.attempts, good.untimed, good.wall_s) == ("finished", 1, 1, 0)
    assert (fails.state, fails.attempts, fails.untimed) == ("failed", 2, 1)
    assert fails.wall_s > 0


def test_that_an_attempt_began_is_on_disk_before_it_ends(plan: Plan) -> None:
    folder = plan("waits")
    noted: list[Comparison] = []
    stopper = stop_when_working(folder, "waits-0", lambda: noted.append(folder.read()))
    with pytest.raises(TrainingStoppedError):
        run_all(folder)
    stopper.join()
    assert [(run.attempts, run.untimed) for run in noted[0].runs] == [(1, 1)]
    assert [(run.attempts, run.untimed) for run in folder.read().runs] == [(1, 0)]


def test_two_processes_do_not_run_one_comparison(plan: Plan) -> None:
    folder = plan("good")
    with (
        folder.lock(),
        pytest.raises(RecipeError, match="c is being run by another process, expected none: wait"),
    ):
        run_all(folder)
    assert states(run_all(folder)) == {"good-0": "finished"}


def test_a_run_keeps_the_lock_that_its_dead_comparison_held(plan: Plan) -> None:
    folder = plan("waits")
    with folder.lock() as lock:
        assert lock is not None
        left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    with pytest.raises(RecipeError, match="is being run by another process"), folder.lock():
        pass
    left.communicate(b"\n")
    with folder.lock():
        pass


def test_a_run_that_ended_unseen_is_not_trained_again(plan: Plan) -> None:
    folder = plan("good")
    planned = folder.read()
    run_all(folder)
    folder.write(planned)  # as if the power went before this was noted
    assert states(run_all(folder)) == {"good-0": "finished"}
    assert len(calls(folder, "good-0")) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_comparison_asked_to_stop_lets_its_run_save_and_can_be_resumed(
    number: signal.Signals, plan: Plan
) -> None:
    folder = plan("good", "waits", "fine")
    thread = stop_when_working(folder, "waits-0", lambda: None, number)
    with pytest.raises(
        TrainingStoppedError, match="stopped in waits-0; 1 of 3 runs are finished: continue with"
    ):
        run_all(folder)
    thread.join()
    assert states(folder.read()) == {"good-0": "finished", "waits-0": "stopped", "fine-0": "planned"}
    assert set(states(run_all(folder)).values()) == {"finished"}
    assert [("--resume" in call) for call in calls(folder, "waits-0")] == [False, True]


def test_the_newest_comparison_is_resumed(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"no comparison under .*, expected one to resume"):
        newest()
    for age, name in ((1, "runs/b"), (2, "runs/a"), (3, "runs/c")):
        folder = plan("good", name=name)
        folder.recipes.mkdir()
        os.utime(folder.recipes, (1e9 - age, 1e9 - age))
    assert newest().name == "b"


def test_a_warm_start_is_trained_once_a_seed_with_the_labels_of_the_seed_and_other_weights(
    plan: Plan,
) -> None:
    folder = plan("good", "fine", seeds=(0, 7), start="begun")
    comparison = run_all(folder)
    path = folder.path
    assert [run.name for run in comparison.runs] == [
        *("start-0", "good-0", "fine-0"),
        *("start-7", "good-7", "fine-7"),
    ]
    (started,), (trained,) = calls(folder, "start-7"), calls(folder, "fine-7")
    assert started == (
        f"train begun --recipe {path}/recipes/start.toml --seed 1000007 --no-export-check "
        f"--set data.partition_seed=7 --out {path}/runs/start-7 --device cpu"
    )
    assert trained == (
        f"train fine --recipe {path}/recipes/fine.toml --seed 7 --no-export-check --from {path}/runs/start-7 "
        f"--out {path}/runs/fine-7 --device cpu"
    )
    assert {run.candidate for run in comparison.finished} == {"good", "fine"}  # a warm start is no row
    assert comparison.summary is not None
    assert [row["name"] for row in comparison.summary["rows"]] == ["good", "fine"]


def test_rows_fail_with_their_warm_start_and_continue_when_it_is_trained(plan: Plan) -> None:
    folder = plan("good", seeds=(0, 1), start="fails")
    (folder.path / "runs/start-1").mkdir(parents=True)
    (folder.path / "runs/start-1/last.ckpt").touch()  # this one continues, and does not fail
    comparison = run_all(folder)
    assert states(comparison) == {
        "start-0": "failed",
        "good-0": "failed",
        "start-1": "finished",
        "good-1": "finished",
    }
    assert comparison.runs[1].reason == "its warm start start-0 failed"
    assert comparison.runs[1].attempts == 0
    (folder.path / "runs/start-0/last.ckpt").touch()
    assert set(states(run_all(folder)).values()) == {"finished"}
    assert len(calls(folder, "good-1")) == 1


def test_jobs_work_side_by_side_and_warm_starts_come_first(plan: Plan) -> None:
    folder = plan("meets", "good", seeds=(0, 1), start="meets")
    comparison = run_all(folder, jobs=2)  # `meets` waits for the other one's process
    assert set(states(comparison).values()) == {"finished"}
    assert [run.attempts for run in comparison.runs] == [1] * 6


def test_all_jobs_that_are_stopped_save_and_continue(plan: Plan) -> None:
    folder = plan("waits", "waits_too", "good")
    other = folder.path / "runs/waits_too-0/calls.txt"

    def both() -> None:
        while not other.exists():
            time.sleep(0.01)
        time.sleep(0.3)  # for its handler of signals

    thread = stop_when_working(folder, "waits-0", both)
    with pytest.raises(TrainingStoppedError, match="stopped in waits-0 and waits_too-0; 0 of 3 runs are"):
        run_all(folder, jobs=2)
    thread.join()
    assert states(folder.read()) == {"waits-0": "stopped", "waits_too-0": "stopped", "good-0": "planned"}
    assert set(states(run_all(folder, jobs=2)).values()) == {"finished"}


def test_jobs_share_the_cores_unless_the_user_says_otherwise(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.train.compare.run_all.cores", lambda: 6)
    for given, jobs, threads in ((None, 1, "None"), (None, 2, "3"), ("5", 2, "5")):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if given:
            monkeypatch.setenv("OMP_NUM_THREADS", given)
        folder = plan("good", name=f"c-{given}-{jobs}")
        run_all(folder, jobs=jobs)
        assert (folder.path / "runs/good-0/threads.txt").read_text() == threads


@pytest.mark.parametrize(("clear", "expected"), [(2, 2), (3, 4), (4, 4), (5, 5), (None, 5)])
def test_seeds_are_added_up_to_the_look_at_which_every_method_is_clear(
    clear: int | None, expected: int, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "zoo.train.compare.run_all.is_clear",
        lambda comparison: clear is not None and len(comparison.seeds) >= clear,
    )
    folder = plan("supervised", "good", seeds=(0, 3), start="begun", looks=(2, 4, 5))
    comparison = run_all(folder)
    assert comparison.seeds == (0, 3, 4, 5, 6)[:expected]
    assert len(comparison.runs) == 3 * expected
    assert set(states(comparison).values()) == {"finished"}
    assert all(len(calls(folder, name)) == 1 for name in states(comparison))
    assert run_all(folder).runs == comparison.runs


def test_no_seeds_are_added_where_a_run_failed(plan: Plan) -> None:
    folder = plan("supervised", "fails", seeds=(0, 1), looks=(2, 4))
    assert run_all(folder).seeds == (0, 1)


def test_a_comparison_of_an_older_version_is_told_apart(plan: Plan) -> None:
    folder = plan("good")
    folder.record.write_text('{"format": 1}')
    with pytest.raises(RecipeError, match="has format 1, expected 2: an older version of zoo wrote it"):
        folder.read()


@pytest.mark.parametrize("text", ["not json", "[]", '{"format": 2}'])
def test_a_record_that_is_none_is_refused(text: str, plan: Plan) -> None:
    folder = plan("good")
    folder.record.write_text(text)
    with pytest.raises(RecipeError, match=r"^[^\n]*is not a comparison [^\n]*: begin again$"):
        folder.read()
