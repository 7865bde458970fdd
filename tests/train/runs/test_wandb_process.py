"""Runs logged to W&B without a login, from a terminal, and after its service process was killed."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from zoo.train.runs.wandb import logged_to_wandb

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def logged_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide every W&B login."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))


def write_run(folder: Path) -> None:
    """Write what is read of a run."""
    (folder / "recipe.json").write_text('{"recipe": {"seed": 7}}')
    (folder / "metrics.json").write_text('{"val": {"miou": 0.5}, "curve": [[3, 0.5]]}')


def run_script(script: str, folder: Path, stdin: int = subprocess.DEVNULL) -> str:
    """Run a script that logs a run, to its end, and return what it writes to standard error."""
    imports = "import sys, os; from pathlib import Path; from zoo.train.runs.wandb import logged_to_wandb"
    command = [sys.executable, "-c", f"{imports}\n{script}", str(folder)]
    done = subprocess.run(command, stdin=stdin, stderr=subprocess.PIPE, text=True, timeout=150, check=True)
    return done.stderr


@pytest.mark.usefixtures("logged_out")
def test_somebody_who_is_not_logged_in_gets_the_figures_in_the_run_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(tmp_path)
    with logged_to_wandb(tmp_path, "trials") as write:
        assert write is not None
        write(3, {"loss/s": 0.5})
    (kept,) = (tmp_path / "wandb").glob("offline-run-*")
    (warning,) = (record.getMessage() for record in caplog.records if record.name.startswith("zoo"))
    reason, _, remedy = warning.partition("; ")
    assert reason == "W&B is offline (UsageError: No API key configured. Use `wandb login` to log in.)"
    assert remedy == f"upload this run with: wandb sync {kept}"
    assert b"loss/s" in next(kept.glob("*.wandb")).read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("logged_out")
def test_nobody_is_asked_to_log_in_at_a_terminal(tmp_path: Path) -> None:
    write_run(tmp_path)
    master, terminal = pty.openpty()
    script = """
sys.stdout = sys.stderr = open(os.ttyname(0), "w")
with logged_to_wandb(Path(sys.argv[1]), "trials") as write:
    write(1, {"loss/s": 0.5})
"""
    run_script(script, tmp_path, stdin=terminal)
    os.close(terminal)
    os.close(master)
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert b"loss/s" in kept.read_bytes()


@pytest.mark.slow
def test_a_service_of_wandb_that_is_killed_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    write_run(tmp_path)
    script = """
import signal
with logged_to_wandb(Path(sys.argv[1]), "trials") as write:
    for step in range(200):
        write(step, {"loss/s": 0.5})
        if step == 100:
            children = Path("/proc/self/task", str(os.getpid()), "children").read_text()
            (service,) = map(int, children.split())
            os.kill(service, signal.SIGKILL)
            os.waitid(os.P_PID, service, os.WEXITED | os.WNOWAIT)
print("trained to the end", file=sys.stderr)
"""
    warning, end = run_script(script, tmp_path).splitlines()[1:]
    assert warning.startswith("W&B logs no more of this run (")
    assert "log.csv has every figure; upload what W&B has with: wandb sync" in warning
    assert end == "trained to the end"
