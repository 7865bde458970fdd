"""What a run tells of itself in `run.json`: each attempt to train it, by whom, with what, and how it ended.

It is written when an attempt begins and when it ends; one that is killed says nothing more. Reading it loads
no torch.
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
    """One process that trained a run, or the first of several on several devices.

    Args:
        begun: time in UTC, ISO 8601.
        ended: likewise; None while it runs; when its last file was written if it was killed.
        state: how it ended; `stopped` was asked for.
        reason: of an end before the last step, one line.
        first: steps taken before.
        last: steps taken at the end; None while it runs and if it was killed.
        command: command line.
        directory: that it was started in.
        host: name of the machine.
        pid: of the process.
        machine: `device`, `devices`, `cpu`, `cores`, `gpu` (None on the CPU).
        versions: of Python, of the packages that compute, of CUDA.
        git: see `zoo.machine.git_state`.
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
    """The contents of `run.json`.

    Args:
        phases: steps by phase, in order.
        split: of the evaluations.
        protocol: likewise.
        attempts: in their order.
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
        """Return the record of a run that nobody trains now: an attempt without an end has failed.

        Args:
            folder: of the run.
        """
        if self.last is None or self.last.state != "running":
            return self
        update = {"state": "failed", "reason": KILLED, "ended": max(self.last.begun, last_written(folder))}
        return self.model_copy(
            update={"attempts": (*self.attempts[:-1], self.last.model_copy(update=update))}
        )


def read_record(folder: Path) -> RunRecord | None:
    """Return the record of a run as its folder tells it, None if it has none.

    Raises:
        BundleError: it cannot be read.
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
    """Return when a run last wrote one of its files, in UTC, ISO 8601."""
    run = RunFolder(folder)
    paths = (run.recipe_file, run.log, run.checkpoint, run.metrics)
    newest = max((path.stat().st_mtime for path in paths if path.is_file()), default=0.0)
    return datetime.datetime.fromtimestamp(newest, datetime.UTC).isoformat(timespec="seconds")
