"""One run of a comparison in a process of its own: a crash is its own, and so is its peak of memory."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from zoo.child import why_ended
from zoo.train.runs.folder import RunFolder

if TYPE_CHECKING:
    from zoo.child import StopRequests
    from zoo.train.compare.record import ComparisonFolder, Run

log = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-m", "zoo")
LOG_NAME = "train.log"
LOG_COLUMNS = "1000"


def command(folder: ComparisonFolder, run: Run, device: str, *, resume: bool = False) -> list[str]:
    """Return the arguments of `zoo` that train a run, or continue it."""
    how = ["--resume"] if resume else ["--recipe", str(folder.recipe(run.method)), "--seed", str(run.seed)]
    return ["train", run.method, *how, "--out", str(folder.run(run)), "--device", device]


def run_one(
    folder: ComparisonFolder, run: Run, device: str, stop: StopRequests, lock: int | None = None
) -> Run:
    """Train a run to its end, from its checkpoint if it has one, and return its state then.

    Args:
        folder: of the comparison; that an attempt began is noted there, as its end may never be seen.
        run: as it is known there.
        device: `cpu` or `cuda`.
        stop: what ends the run early.
        lock: see `ComparisonFolder.lock`.
    """
    path = RunFolder(folder.run(run))
    if not path.is_finished:
        begun = run.model_copy(update={"attempts": run.attempts + 1, "untimed": run.untimed + 1})
        folder.note(begun)
        started = time.monotonic()
        status, last_words = _train(folder, begun, device, stop, lock)
        update: dict[str, Any] = {
            "untimed": run.untimed,
            "wall_s": round(run.wall_s + time.monotonic() - started, 3),
        }
        run = begun.model_copy(update=update)
        if not path.is_finished:
            state = "stopped" if stop.requested else "failed"
            reason = None if stop.requested else why_ended(status, last_words)
            return run.model_copy(update={"state": state, "reason": reason})
    metrics = json.loads(path.metrics.read_text(encoding="utf-8"))
    return run.model_copy(update={"state": "finished", "reason": None, "metrics": metrics})


def _train(
    folder: ComparisonFolder, run: Run, device: str, stop: StopRequests, lock: int | None
) -> tuple[int, str]:
    """Run the process of a run; return its exit status and the last line that it wrote."""
    path = RunFolder(folder.run(run))
    resume = path.checkpoint.is_file()
    if not resume and path.recipe_file.exists():
        shutil.rmtree(path.path)  # ended before its first checkpoint
    path.path.mkdir(parents=True, exist_ok=True)
    program = [*PROGRAM, *command(folder, run, device, resume=resume)]
    last_words = ""
    with (
        (path.path / LOG_NAME).open("a", encoding="utf-8", buffering=1) as file,
        stop.started(
            program,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=() if lock is None else (lock,),
            env=os.environ | {"COLUMNS": LOG_COLUMNS},  # else remarks are wrapped at 80
        ) as process,
    ):
        assert process.stderr is not None
        for line in process.stderr:
            file.write(line)
            if line.strip():
                last_words = line.strip()
                log.info("%s: %s", run.name, last_words)
        process.wait()
    return process.returncode, last_words
