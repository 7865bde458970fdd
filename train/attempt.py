"""Attempts to train a run: exclusive access to its folder, and a record of the outcome."""

from __future__ import annotations

import datetime
import logging
import os
import platform
import shlex
import sys
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo import __version__
from zoo.bundle.bundle import write_json, write_text
from zoo.errors import DatasetError, ZooError
from zoo.faults import is_full_disk, is_full_memory
from zoo.machine import cores, cpu_model, git_state, installed_packages
from zoo.train.data.loaders import WORKER
from zoo.train.loop.engine import DivergedError, TrainingStoppedError
from zoo.train.runs.folder import RunFolder
from zoo.train.runs.lock import locked
from zoo.train.runs.record import Attempt, RunRecord, State, read_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_fabric import Fabric

    from zoo.train.loop.engine import Engine


log = logging.getLogger(__name__)

PACKAGES_NAME = "packages.txt"
COMPUTING = ("torch", "torchvision", "timm", "lightning-fabric", "numpy", "pillow")
"""Packages whose version can change the results of a run."""

WRITER = ("PytorchStreamWriter", "inline_container", "iostream error")
"""Names in the errors of torch.save when a file cannot be written."""


@contextmanager
def attempt(engine: Engine) -> Iterator[None]:
    """Record the block as an attempt to train the engine's run, whose folder exists.

    Raises:
        RecipeError: another process trains in this folder.
    """
    folder = engine.run.path
    with locked(folder):
        before = read_record(folder) or RunRecord(phases={each.name: each.steps for each in engine.phases})
        before, begun = before.settled(folder), _begin(engine)
        _write(folder, before, begun)
        _write_packages(folder)
        try:
            yield
        except BaseException as error:
            end = _end(begun, _state(error), engine.step, _in_a_line(error))
            try:
                _write(folder, before, end)
            except OSError as full:  # the disk may be why the run failed
                log.warning("%s: the end of the run is not recorded: %s", folder, full)
            raise
        _write(folder, before, _end(begun, "finished", engine.step))


def command_line() -> str:
    """Return the command line of this process, with the program as `zoo`."""
    program, *arguments = sys.argv
    return shlex.join(["zoo" if Path(program).stem in ("zoo", "__main__") else program, *arguments])


def environment(fabric: Fabric) -> dict[str, Any]:
    """Return `machine` and `versions` for the record of an attempt."""
    device = fabric.device
    on_gpu = device.type == "cuda"
    cudnn = torch.backends.cudnn.version() if on_gpu else None
    machine = {
        "device": device.type,
        "devices": fabric.world_size,
        "cpu": cpu_model(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
    }
    versions = {
        "zoo": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in COMPUTING},
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": None if cudnn is None else str(cudnn),
    }
    return {"machine": machine, "versions": versions}


def _begin(engine: Engine) -> Attempt:
    return Attempt(
        begun=_now(),
        first=engine.step,
        command=command_line(),
        directory=str(Path.cwd()),
        host=platform.node(),
        pid=os.getpid(),
        git=git_state(Path.cwd()),
        **environment(engine.fabric),
    )


def _end(begun: Attempt, state: State, last: int, reason: str | None = None) -> Attempt:
    return begun.model_copy(update={"ended": _now(), "state": state, "last": last, "reason": reason})


def _state(error: BaseException) -> State:
    if isinstance(error, DivergedError):
        return "failed"
    return "stopped" if isinstance(error, KeyboardInterrupt | TrainingStoppedError) else "failed"


def _in_a_line(error: BaseException) -> str:
    """Return the message of an error in one line, with the type of errors other than `ZooError`."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ZooError) else f"{type(error).__name__}: {text}".removesuffix(": ")


def _write(folder: Path, before: RunRecord, latest: Attempt) -> None:
    record = before.model_copy(update={"attempts": (*before.attempts, latest)})
    write_json(RunFolder(folder).record, record.model_dump(mode="json"))


def _write_packages(folder: Path) -> None:
    """Write the installed packages in the format of `pip install --constraint`."""
    lines = (f"{name}=={version}\n" for name, version in installed_packages().items())
    write_text(folder / PACKAGES_NAME, "".join(lines))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class BrokenOffError(ZooError):
    """Training interrupted by a machine fault; the last checkpoint is intact."""


@contextmanager
def explaining(engine: Engine) -> Iterator[None]:
    """Turn full disks and memory, dead data workers and missing images into one-line errors.

    Raises:
        BrokenOffError: one of these faults occurred.
    """
    try:
        yield
    except (OSError, RuntimeError, MemoryError, DatasetError) as error:
        why = _reason(error)
        if why is None:
            raise
        recipe, run = engine.recipe, engine.run
        how = f"continue with zoo train {recipe.method.name} --resume --out {shlex.quote(str(run.path))}"
        if is_full_memory(error):
            how = f"where another program took it, {how}"
        if not run.checkpoint.is_file():
            how = f"nothing was saved yet, begin again without {run.path}"
        raise BrokenOffError(f"broke off after step {engine.step} of {recipe.steps}: {why}; {how}") from error


def _reason(error: Exception) -> str | None:
    """Return the fault and its remedy; None for any other error."""
    text = str(error)
    last = text.strip().rpartition("\n")[2]  # a worker's error includes its traceback
    if is_full_disk(error):
        return f"the disk is full ({last}): make room; the former checkpoint is whole"
    if any(name in text for name in WRITER):
        return "the checkpoint could not be written, the disk may be full: make room; the former one is whole"
    if isinstance(error, DatasetError):
        return last.removeprefix("zoo.errors.DatasetError: ")
    if is_full_memory(error):
        return (
            "the memory is full: begin again with a smaller --batch or --imgsz, --precision bf16 or "
            "--recompute (--plan tells the largest batch)"
        )
    if isinstance(error, RuntimeError) and text.startswith(WORKER):
        return (
            "a process that prepares batches died, mostly for lack of memory: take fewer "
            "(data.workers in recipe.json), or end what else needs memory"
        )
    return None
