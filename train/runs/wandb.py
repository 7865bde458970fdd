"""Weights & Biases, if asked for: another process hands over what the run folder gains.

Training loads no W&B and does not wait for that process: whatever becomes of either or of the server, the run
goes on, and `log.csv` holds every figure. `wandb.json` keeps which W&B run it is; a resumed run continues it.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from zoo.bundle.bundle import write_json
from zoo.errors import BundleError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

FILE_NAME = "wandb.json"
FINISHED, STOPPED = "finished\n", "stopped\n"
"""What the process that follows a run is told at its end; nothing if this one is killed."""
SETTINGS = {"WANDB_SILENT": "true", "WANDB_INIT_TIMEOUT": "20", "WANDB_FINISH_TIMEOUT": "15"}
"""Of W&B, in seconds, where the environment has none of its own."""
END_S = 45.0
"""The longest that the end of a run waits for that process."""
NAME = r"[^/\\#?%:]{1,128}"
"""What W&B takes as the name of a project."""


class WandbRun(BaseModel):
    """The contents of `wandb.json`.

    Args:
        project: in W&B.
        id: of the run in it.
        sent: the last step whose figures were handed over.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    project: str
    id: str
    sent: int = 0

    def write(self, folder: Path) -> None:
        """Write `wandb.json` of a run."""
        write_json(folder / FILE_NAME, self.model_dump())


def read_wandb_run(folder: Path) -> WandbRun | None:
    """Return the W&B run of a run folder, None if it has none.

    Raises:
        BundleError: its file cannot be read.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    try:
        return WandbRun.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise BundleError(
            f"{path} names no W&B run ({error.errors()[0]['msg']}): remove it, and give --wandb PROJECT"
        ) from error


def check_wandb(project: str | None, folder: Path | None = None) -> None:
    """Raise unless W&B can be asked for: nothing is loaded or sent.

    Args:
        project: None if it is not asked for.
        folder: of a run that may have a W&B run.

    Raises:
        RecipeError: wandb is missing, no such name is possible, or the run belongs to another project.
    """
    if project is None:
        return
    if find_spec("wandb") is None:
        raise RecipeError("--wandb needs wandb, which is not installed: pip install 'semiseg-zoo[wandb]'")
    if not re.fullmatch(NAME, project):
        raise RecipeError(
            rf"--wandb {project!r} is no name of a project, expected up to 128 characters without /\#?%: "
            "(a team is named by WANDB_ENTITY)"
        )
    kept = None if folder is None else read_wandb_run(folder)
    if kept is not None and kept.project != project:
        raise RecipeError(
            f"{folder} is a run of the W&B project {kept.project}, got --wandb {project}: leave it out"
        )


@contextmanager
def followed(folder: Path, project: str | None) -> Iterator[None]:
    """Hand over the figures of a run to W&B while it is trained inside, if that is or was asked for.

    Args:
        folder: of the run.
        project: None: only if the run has a W&B run already.
    """
    process = _follow(folder, project)
    if process is None:
        yield
        return
    end = STOPPED
    try:
        yield
        end = FINISHED
    finally:
        _end(process, end, folder)


def _follow(folder: Path, project: str | None) -> subprocess.Popen[str] | None:
    run = read_wandb_run(folder)
    if run is None and project is None:
        return None
    if find_spec("wandb") is None:
        log.warning("W&B does not go on: pip install 'semiseg-zoo[wandb]'; the figures are in log.csv")
        return None
    if run is None and project is not None:
        WandbRun(project=project, id=secrets.token_hex(8)).write(folder)
    command = [sys.executable, "-m", "zoo.train.wandb_follow", str(folder)]
    try:
        # a session of its own: Ctrl-C is for the training, which then tells the process how it ended
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env=SETTINGS | os.environ,
        )
    except OSError as error:
        log.warning("W&B does not go on: no process can be started for it (%s)", error)
        return None


def _end(process: subprocess.Popen[str], word: str, folder: Path) -> None:
    """Tell how the run ended and wait a while for the last figures to be taken."""
    try:
        process.communicate(word, timeout=END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    if process.returncode != 0:
        log.warning(
            "W&B lacks some figures: the process that hands them over ended before its time (status %d); "
            "they are in %s, and --resume hands them over",
            process.returncode,
            folder / "log.csv",
        )
