"""Record of a run in `run.json`: each attempt to train it, its environment and outcome.

It is written at the start and end of an attempt, but not when an attempt is killed. Reading it does not load
torch.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from zoo.errors import BundleError
from zoo.frozen import Frozen, first_fault
from zoo.train.runs.folder import RunFolder
from zoo.train.runs.lock import is_locked

if TYPE_CHECKING:
    from pathlib import Path

KILLED = "ended without a word: killed, out of memory, or the machine stopped"

State = Literal["running", "finished", "stopped", "failed"]


class Attempt(Frozen):
    """A process that trained a run, or the first of the processes of several devices.

    Args:
        begun: start time in UTC, ISO 8601.
        ended: end time in UTC, ISO 8601; None while it runs. If it was killed, the time of its last file.
        state: outcome; `stopped` by the user.
        reason: reason for an end before the last step, one line.
        first: number of steps taken before.
        last: number of steps taken at the end; None while it runs, or if it was killed.
        command: command line.
        directory: working directory.
        host: name of the machine.
        pid: id of the process.
        machine: `device`, `devices`, `cpu`, `cores`, `gpu` (None on the CPU).
        versions: versions of Python, of packages that affect results, and of CUDA.
        git: state of the repository, as from `zoo.machine.git_state`.
    """

    begun: str
    ended: str | None = None
    state: State = "running"
    reason: str | None = None
    first: int
    last: int | None = None
    command: str
    directory: str
    host: str
    pid: int
    machine: dict[str, Any]
    versions: dict[str, str | None]
    git: dict[str, Any] | None


class RunRecord(Frozen):
    """Contents of `run.json`.

    Args:
        phases: number of steps of each phase, in order.
        split: split of the evaluations.
        protocol: protocol of the evaluations.
        attempts: attempts in chronological order.
    """

    format: Literal[1] = 1
    phases: dict[str, int]
    split: str = "val"
    protocol: str = "whole"
    attempts: tuple[Attempt, ...] = ()

    @property
    def last(self) -> Attempt | None:
        """Return the last attempt."""
        return self.attempts[-1] if self.attempts else None

    def settled(self, folder: Path) -> RunRecord:
        """Return the record of a run that is not being trained: an attempt without an end has failed.

        Args:
            folder: run folder.
        """
        if self.last is None or self.last.state != "running":
            return self
        update = {"state": "failed", "reason": KILLED, "ended": max(self.last.begun, last_written(folder))}
        return self.model_copy(
            update={"attempts": (*self.attempts[:-1], self.last.model_copy(update=update))}
        )


def read_record(folder: Path) -> RunRecord | None:
    """Return the record of a run; None if it has none.

    Raises:
        BundleError: the record cannot be read.
    """
    path = RunFolder(folder).record
    try:
        record = RunRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise BundleError(
            f"{path} is not the record of a run ({first_fault(error)}): remove it, the run stays"
        ) from error
    return record if is_locked(folder) else record.settled(folder)


def last_written(folder: Path) -> str:
    """Return the time of a run's last written file, in UTC, ISO 8601."""
    run = RunFolder(folder)
    paths = (run.recipe_file, run.log, run.checkpoint, run.metrics)
    newest = max((path.stat().st_mtime for path in paths if path.is_file()), default=0.0)
    return datetime.datetime.fromtimestamp(newest, datetime.UTC).isoformat(timespec="seconds")
