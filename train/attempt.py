"""An attempt to train a run: nobody else in its folder meanwhile, and a record of how it went."""

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
from zoo.bundle import replacing, write_json
from zoo.errors import ZooError
from zoo.machine import cpu_model, git_state, installed_packages
from zoo.train.engine import DivergedError, TrainingStoppedError
from zoo.train.lock import locked
from zoo.train.record import RECORD_NAME, Attempt, RunRecord, State, read_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.fabric import Fabric

    from zoo.train.engine import Engine

log = logging.getLogger(__name__)

PACKAGES_NAME = "packages.txt"
COMPUTING = ("torch", "torchvision", "timm", "lightning", "numpy", "pillow")
"""Packages whose version can change what a run computes."""


@contextmanager
def attempt(engine: Engine) -> Iterator[None]:
    """Record what happens inside as an attempt to train the engine's run, whose folder exists.

    Raises:
        RecipeError: another process trains there.
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
    """Return the command line of this process, `zoo` by its name."""
    program, *arguments = sys.argv
    return shlex.join(["zoo" if Path(program).stem in ("zoo", "__main__") else program, *arguments])


def environment(fabric: Fabric) -> dict[str, Any]:
    """Return `machine` and `versions` of an attempt; see `Attempt`."""
    device = fabric.device
    on_gpu = device.type == "cuda"
    cudnn = torch.backends.cudnn.version() if on_gpu else None
    machine = {
        "device": device.type,
        "devices": fabric.world_size,
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
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
    """Return what an error says in one line; one that is not ours with its name."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ZooError) else f"{type(error).__name__}: {text}".removesuffix(": ")


def _write(folder: Path, before: RunRecord, latest: Attempt) -> None:
    record = before.model_copy(update={"attempts": (*before.attempts, latest)})
    write_json(folder / RECORD_NAME, record.model_dump(mode="json"))


def _write_packages(folder: Path) -> None:
    """Write all that is installed as `pip install --constraint` takes it."""
    lines = (f"{name}=={version}\n" for name, version in installed_packages().items())
    with replacing(folder / PACKAGES_NAME) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
