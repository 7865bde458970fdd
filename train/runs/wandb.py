"""Log of a run in Weights & Biases, for `zoo train --wandb PROJECT`.

W&B uploads from a service process of its own. Its first error ends this log with a warning and never the
training; `log.csv` has every figure. `wandb.json` keeps the ID of the W&B run, which a resumed run continues.
"""

from __future__ import annotations

import json
import logging
import secrets
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ValidationError

from zoo.bundle.bundle import write_json
from zoo.errors import BundleError, RecipeError
from zoo.frozen import first_fault
from zoo.train.runs.folder import RunFolder
from zoo.train.runs.log import read_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import wandb

log = logging.getLogger(__name__)

FILE_NAME = "wandb.json"
SETTINGS = {
    "console": "off",
    "silent": True,
    "init_timeout": 20.0,
    "finish_timeout": 15.0,
    "finish_timeout_raises": True,
}
"""W&B settings where its own files and environment variables have none; timeouts in seconds."""


class WandbRun(BaseModel):
    """Contents of `wandb.json`: project and ID of the W&B run."""

    project: str
    id: str


def read_wandb_run(folder: Path) -> WandbRun | None:
    """Return the W&B run of a run folder, None if it has none.

    Raises:
        BundleError: the file is invalid.
    """
    path = folder / FILE_NAME
    try:
        return WandbRun.model_validate_json(path.read_bytes()) if path.is_file() else None
    except ValidationError as error:
        raise BundleError(
            f"{path} names no W&B run ({first_fault(error)}): remove it, and give --wandb PROJECT"
        ) from error


def check_wandb(project: str | None, folder: Path | None = None) -> None:
    """Raise unless a run can be logged to a W&B project, None for no logging; sends nothing.

    Raises:
        RecipeError: wandb is not installed, the name is invalid, or `folder` holds another project.
    """
    if project is None:
        return
    try:
        import wandb
    except ImportError as error:
        raise RecipeError(f"--wandb needs wandb ({error}): pip install 'semiseg-zoo[wandb]'") from error
    try:
        wandb.Settings(project=project or "/")  # W&B would replace an empty name
    except wandb.Error as error:
        raise RecipeError(f"--wandb: {error}; the environment variable WANDB_ENTITY names a team") from error
    kept = None if folder is None else read_wandb_run(folder)
    if kept is not None and kept.project != project:
        raise RecipeError(
            f"{folder} is a run of the W&B project {kept.project}, got --wandb {project}: leave it out"
        )


@contextmanager
def logged_to_wandb(
    folder: Path, project: str | None
) -> Iterator[Callable[[int, dict[str, float]], None] | None]:
    """Yield a function that logs the figures of a step, None if W&B is not asked for.

    Args:
        folder: run folder.
        project: W&B project; None continues the W&B run of the folder, if it has one.
    """
    kept = read_wandb_run(folder)
    if kept is None and project is None:
        yield None
        return
    wandb_log = WandbLog(folder, kept or WandbRun(project=project or "", id=secrets.token_hex(8)))
    try:
        yield wandb_log.write
    except BaseException:
        wandb_log.close(exit_code=1)
        raise
    wandb_log.close(exit_code=0)


class WandbLog:
    """Log of a run in W&B, up to the first error of W&B."""

    def __init__(self, folder: Path, kept: WandbRun) -> None:
        self.folder, self.next_step = folder, 0
        self.run: wandb.Run | None = None
        self.excepthook = sys.excepthook
        rows = read_log(RunFolder(folder).log)
        if not (folder / FILE_NAME).exists():
            write_json(folder / FILE_NAME, kept.model_dump())
        elif rows:  # an earlier attempt logged them
            self.next_step = int(rows[-1]["step"]) + 1
        with self._guarded():
            self.run = _start(folder, kept)
            if not self.run.offline:
                self.next_step = self.run.step  # the server knows which rows it lacks
            for row in rows:
                self.write(int(row.pop("step")), row)

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Log the figures of a step that W&B lacks."""
        if self.run is not None and step >= self.next_step:
            self.next_step = step + 1
            with self._guarded():
                self.run.log(figures, step=step)

    def close(self, exit_code: int) -> None:
        """End the W&B run; one that succeeded with its metrics and pictures."""
        if self.run is not None:
            with self._guarded():
                if exit_code == 0:
                    self._log_results(self.run)
                self.run.finish(exit_code)
        with suppress(Exception, SystemExit):  # at exit W&B would do this with a traceback
            import wandb

            wandb.teardown(exit_code)
        sys.excepthook = self.excepthook  # with W&B's, a traceback appears twice

    def _log_results(self, run: wandb.Run) -> None:
        import wandb

        metrics = json.loads(RunFolder(self.folder).metrics.read_text(encoding="utf-8"))
        run.summary["final"] = {name: value for name, value in metrics.items() if name != "curve"}
        files = RunFolder(self.folder)
        pictures = [path for path in (files.preview, files.curves) if path.is_file()]
        run.log({path.stem: wandb.Image(str(path)) for path in pictures})

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turn an error of W&B into a warning, and end this log."""
        try:
            yield
        except (Exception, SystemExit) as error:
            sync = f"; upload what W&B has with: {_sync_command(self.run)}" if self.run else ""
            self.run = None
            log.warning("W&B logs no more of this run (%s); log.csv has every figure%s", _line(error), sync)


def _start(folder: Path, kept: WandbRun) -> wandb.Run:
    """Return the W&B run, started or resumed; offline if the server cannot be used."""
    import wandb

    try:
        run, reason = _init(folder, kept), "as configured"
    except Exception as error:
        wandb.teardown()  # releases the ID of the run
        run, reason = _init(folder, kept, "offline"), _line(error)
    if run.offline:
        log.warning("W&B is offline (%s); upload this run with: %s", reason, _sync_command(run))
    else:
        log.info("W&B: %s", run.url or "disabled")
    return run


def _init(folder: Path, kept: WandbRun, mode: Literal["offline"] | None = None) -> wandb.Run:
    import wandb

    settings = wandb.setup().settings
    defaults = SETTINGS | {"root_dir": str(folder), "run_name": folder.resolve().name}
    unset = {name: value for name, value in defaults.items() if name not in settings.model_fields_set}
    wandb.setup(wandb.Settings(**unset))
    wandb.termsetup(settings, None)  # apply `silent` from here on, so that W&B does not prompt for a login
    recipe = json.loads(RunFolder(folder).recipe_file.read_text(encoding="utf-8"))["recipe"]
    return wandb.init(project=kept.project, id=kept.id, resume="allow", config=recipe, mode=mode)


def _sync_command(run: wandb.Run) -> str:
    return f"wandb sync {Path(run.dir).parent}"


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
