"""A run that was broken off and resumed ends as one that never was: weights, optimizer, random state, log."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from typer.testing import CliRunner

from zoo.bundle.bundle import load_config
from zoo.cli import app
from zoo.train.loop.checkpoint import load_checkpoint
from zoo.train.loop.engine import TrainingStoppedError
from zoo.train.loop.hardware import Hardware
from zoo.train.methods.eln.eln import Eln
from zoo.train.runs.folder import RunFolder
from zoo.train.runs.log import read_log
from zoo.train.runs.record import read_record
from zoo.train.session import resume, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zoo.train.method import Progress
    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

CPU = Hardware("cpu")
PATIENCE_S = 120


class PowerCutError(Exception):
    """What ends a process without a word, in these tests."""


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Return what nested dicts and lists hold, by path."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in items:
            yield from leaves(inner, f"{key}/{name}")
    else:
        yield key, value


def rows_of(run: Path) -> list[dict[str, float]]:
    """Return the log without its speed."""
    return [{k: v for k, v in row.items() if k != "images_per_s"} for row in read_log(run / "log.csv")]


def assert_same_end(run: Path, unbroken: Path) -> None:
    got, expected = (dict(leaves(load_checkpoint(folder / "last.ckpt"))) for folder in (run, unbroken))
    assert got.keys() == expected.keys()
    different = [
        key
        for key, value in expected.items()
        if not (torch.equal(value, got[key]) if isinstance(value, torch.Tensor) else value == got[key])
    ]
    assert different == []
    assert rows_of(run) == rows_of(unbroken)
    weights = "bundle/model.safetensors"
    assert (run / weights).read_bytes() == (unbroken / weights).read_bytes()


@pytest.fixture(scope="module", autouse=True)
def _every_step_is_logged() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.train.session.write_curves", lambda *_: None)  # the slowest part of so short a run
        patch.setattr("zoo.train.loop.engine.LOG_EVERY", 1)
        yield


@pytest.fixture(scope="module")
def unbroken(load_tiny: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of ten steps: three of `pretrain`, two of `localize`, five of `semi` with two resets."""
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    start(load_tiny({"validate_every": 4}), run, CPU)
    return run


@pytest.fixture
def do_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, Callable[[], None]], None]]:
    """Return a function that lets something happen once, during a step."""
    after_step = Eln.after_step

    def plan(step: int, happen: Callable[[], None]) -> None:
        def wrapped(method: Eln, progress: Progress) -> None:
            if progress.step == step:
                monkeypatch.setattr(Eln, "after_step", after_step)
                happen()
            after_step(method, progress)

        monkeypatch.setattr(Eln, "after_step", wrapped)

    return plan


def cut_power() -> None:
    raise PowerCutError


@pytest.mark.parametrize(
    ("cut_at", "checkpoint_every"),
    [
        pytest.param(2, 1, id="in-pretrain"),
        pytest.param(3, 1, id="between-pretrain-and-localize"),
        pytest.param(5, 1, id="between-localize-and-semi"),
        pytest.param(7, 1, id="after-a-reset-of-the-student"),
        pytest.param(8, 3, id="two-steps-after-the-checkpoint"),
        pytest.param(9, 4, id="checkpoint-at-an-evaluation"),
    ],
)
def test_a_run_cut_off_and_resumed_equals_an_unbroken_one(
    cut_at: int, checkpoint_every: int, load_tiny: Load, unbroken: Path, do_at: Any, tmp_path: Path
) -> None:
    recipe = load_tiny({"validate_every": 4, "checkpoint_every": checkpoint_every})
    do_at(cut_at, cut_power)
    with pytest.raises(PowerCutError):
        start(recipe, tmp_path / "run", CPU)
    saved = load_checkpoint(tmp_path / "run/last.ckpt")["step"]
    assert saved == cut_at // checkpoint_every * checkpoint_every
    torch.rand(5)  # a new process has another random state
    metrics = resume(tmp_path / "run", "eln", CPU)
    assert metrics["steps"] == 10
    assert_same_end(tmp_path / "run", unbroken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_asked_to_stop_saves_the_step_it_is_in(
    number: signal.Signals, load_tiny: Load, unbroken: Path, do_at: Any, tmp_path: Path
) -> None:
    do_at(6, lambda: signal.raise_signal(number))
    run = tmp_path / "run"
    with pytest.raises(TrainingStoppedError, match=rf"after step 7 of 10.* --resume --out {run}"):
        start(load_tiny({"validate_every": 4}), run, CPU)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    resume(run, "eln", CPU)
    assert_same_end(run, unbroken)


def test_a_run_cut_off_twice_still_equals_an_unbroken_one(
    load_tiny: Load, unbroken: Path, do_at: Any, tmp_path: Path
) -> None:
    do_at(3, cut_power)
    with pytest.raises(PowerCutError):
        start(load_tiny({"validate_every": 4, "checkpoint_every": 2}), tmp_path / "run", CPU)
    do_at(7, cut_power)
    with pytest.raises(PowerCutError):
        resume(tmp_path / "run", "eln", CPU)
    resume(tmp_path / "run", "eln", CPU)
    assert_same_end(tmp_path / "run", unbroken)


def test_a_finished_run_resumed_stays_as_it_is(load_tiny: Load, tmp_path: Path) -> None:
    metrics = start(load_tiny(steps=4), tmp_path / "run", CPU)
    before = rows_of(tmp_path / "run")
    again = resume(tmp_path / "run", "eln", CPU)
    measured = ("val", "peak_memory", "step_ms")
    assert [again[name] for name in measured] == [metrics[name] for name in measured]
    assert rows_of(tmp_path / "run") == before


def test_a_run_cut_off_before_its_first_checkpoint_starts_anew_and_equals_an_unbroken_one(
    load_tiny: Load, unbroken: Path, do_at: Any, tmp_path: Path
) -> None:
    do_at(3, cut_power)
    with pytest.raises(PowerCutError):
        start(load_tiny({"validate_every": 4, "checkpoint_every": 4}), tmp_path / "run", CPU)
    assert not (tmp_path / "run/last.ckpt").exists()
    resume(tmp_path / "run", "eln", CPU)
    assert_same_end(tmp_path / "run", unbroken)
    assert len(read_record(tmp_path / "run").attempts) == 2


def test_a_run_that_starts_anew_notes_where_its_data_are_now(
    load_tiny: Load, tiny_folder: Path, do_at: Any, tmp_path: Path
) -> None:
    do_at(1, cut_power)
    shutil.copytree(tiny_folder, tmp_path / "old")
    with pytest.raises(PowerCutError):
        start(load_tiny({"data.spec": str(tmp_path / "old")}, steps=4), tmp_path / "run", CPU)
    (tmp_path / "old").rename(tmp_path / "moved")
    resume(tmp_path / "run", "eln", CPU, spec=str(tmp_path / "moved"))
    assert RunFolder(tmp_path / "run").read_recipe()[0].data.spec == str(tmp_path / "moved")
    assert load_config(tmp_path / "run/bundle").data_spec == str(tmp_path / "moved")


# --- real processes ---

LONG = {"steps": 40, "checkpoint_every": 3}


@pytest.fixture(scope="module")
def long_unbroken(load_tiny: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "long"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.train.loop.engine.LOG_EVERY", 10)  # as in a process of its own
        start(load_tiny(LONG), run, CPU)
    return run


def interrupt(
    recipe: Path, run: Path, number: signal.Signals, workers: int
) -> subprocess.CompletedProcess[str]:
    """Send a signal to the process group of `zoo train` after its first checkpoint; return what it left."""
    settings = LONG | {"data.workers": workers}
    command = [
        sys.executable,
        "-m",
        "zoo",
        "train",
        "eln",
        "--recipe",
        str(recipe),
        "--device",
        "cpu",
        "--no-export-check",
    ]
    command += ["--out", str(run), *(f"--set={key}={value}" for key, value in settings.items())]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not (run / "last.ckpt").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(command, process.returncode, out, err)


def resume_by_command(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.train.loop.engine.LOG_EVERY", 10)
    result = CliRunner().invoke(app, ["train", "eln", "--resume", "--out", str(run), "--device", "cpu"])
    assert result.exit_code == 0, result.output


def saved_step(run: Path) -> int:
    """Return the step that the checkpoint of a run holds."""
    return int(load_checkpoint(run / "last.ckpt")["step"])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_process_resumed_equals_an_unbroken_run(
    workers: int, tiny_recipe: Path, long_unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    killed = interrupt(tiny_recipe, run, signal.SIGKILL, workers)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert saved_step(run) % 3 == 0
    resume_by_command(run, monkeypatch)
    assert_same_end(run, long_unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_asked_to_stop_says_in_one_line_how_to_go_on(
    number: signal.Signals,
    workers: int,
    tiny_recipe: Path,
    long_unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    stopped = interrupt(tiny_recipe, run, number, workers)
    step = saved_step(run)
    assert stopped.returncode == 1, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert stopped.stdout == ""
    errors = [line for line in stopped.stderr.splitlines() if line.startswith("error")]
    assert errors == [
        (
            f"error: stopped after step {step} of 40, which is saved: "
            f"continue with zoo train eln --resume --out {run}"
        )
    ]
    assert step < 40
    resume_by_command(run, monkeypatch)
    assert_same_end(run, long_unbroken)
