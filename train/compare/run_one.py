"""One run of a comparison in a process of its own: a crash is its own, and so is its peak of memory."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.child import StopRequests, why_ended
from zoo.train.compare.record import SECOND_START, START, Run
from zoo.train.runs.folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.train.compare.record import Candidate, ComparisonFolder

log = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-m", "zoo")
LOG_NAME = "train.log"
LOG_COLUMNS = "1000"
OTHER_SEEDS = {START: 1_000_000, SECOND_START: 2_000_000}
"""Added to a seed for the weights and the order of its warm starts: rows must not see the same batches again,
and two networks must differ."""


class SharedResources(NamedTuple):
    """Resources that the processes of a comparison share.

    Args:
        stop: requests to stop early.
        lock: file descriptor of `ComparisonFolder.lock`.
        threads: threads of each run, None for PyTorch's default.
    """

    stop: StopRequests
    lock: int | None = None
    threads: int | None = None


def planned_runs(
    folder: ComparisonFolder, candidates: Sequence[Candidate], seeds: Sequence[int], device: str
) -> tuple[Run, ...]:
    """Return the runs of these seeds, one seed after the other."""
    found = []
    for seed in seeds:
        for each in candidates:
            other_seed = seed + OTHER_SEEDS[each.name] if each.role == "start" else None
            starts = tuple(f"{name}-{seed}" for name in each.starts)
            names = {"candidate": each.name, "method": each.method}
            run = Run(**names, seed=seed, other_seed=other_seed, starts=starts)
            text = shlex.join(["zoo", *command(folder, run, device)])
            found.append(run.model_copy(update={"command": text}))
    return tuple(found)


def command(folder: ComparisonFolder, run: Run, device: str, *, resume: bool = False) -> list[str]:
    """Return the arguments of `zoo` that train a run, or continue it."""
    if resume:
        how = ["--resume"]
    else:
        seed = run.seed if run.other_seed is None else run.other_seed
        how = ["--recipe", str(folder.recipe(run.candidate)), "--seed", str(seed), "--no-export-check"]
        if run.other_seed is not None:
            how += ["--set", f"data.partition_seed={run.seed}"]
        for start in run.starts:
            how += ["--from", str(folder.run_named(start))]
    return ["train", run.method, *how, "--out", str(folder.run(run)), "--device", device]


def run_one(folder: ComparisonFolder, run: Run, device: str, crew: SharedResources) -> Run:
    """Train a run to its end, from its checkpoint if it has one, and return its state then.

    Args:
        folder: folder of the comparison. It records the start of the attempt, because its end may be missed.
        run: state of the run.
        device: `cpu` or `cuda`.
        crew: resources shared with other runs.
    """
    path = RunFolder(folder.run(run))
    if not path.is_finished:
        begun = run.model_copy(update={"attempts": run.attempts + 1, "untimed": run.untimed + 1})
        folder.note(begun)
        started = time.monotonic()
        status, last_words = _train(folder, begun, device, crew)
        update: dict[str, Any] = {
            "untimed": run.untimed,
            "wall_s": round(run.wall_s + time.monotonic() - started, 3),
        }
        run = begun.model_copy(update=update)
        if not path.is_finished:
            state = "stopped" if crew.stop.requested else "failed"
            reason = None if crew.stop.requested else why_ended(status, last_words)
            return run.model_copy(update={"state": state, "reason": reason})
    metrics = json.loads(path.metrics.read_text(encoding="utf-8"))
    return run.model_copy(update={"state": "finished", "reason": None, "metrics": metrics})


def _train(folder: ComparisonFolder, run: Run, device: str, crew: SharedResources) -> tuple[int, str]:
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
        crew.stop.started(
            program,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=() if crew.lock is None else (crew.lock,),
            env=_environment(crew),
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


def _environment(crew: SharedResources) -> dict[str, str]:
    """Return the environment of a run."""
    found = os.environ | {"COLUMNS": LOG_COLUMNS}  # else remarks are wrapped at 80
    if crew.threads is not None:
        found.setdefault("OMP_NUM_THREADS", str(crew.threads))
    return found
