"""How a run ends that the machine breaks off: one line that says why, and how to go on."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from zoo.errors import DatasetError, ZooError
from zoo.faults import is_full_disk, is_full_memory
from zoo.train.loaders import WORKER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoo.train.engine import Engine

WRITER = ("PytorchStreamWriter", "inline_container", "iostream error")
"""What torch.save names where a file cannot be written on."""


class BrokenOffError(ZooError):
    """Training ended by a fault of the machine; the checkpoint holds what was saved last."""


@contextmanager
def explaining(engine: Engine) -> Iterator[None]:
    """Turn a full disk or memory, a dead data worker and an image that vanished into an error of one line.

    Raises:
        BrokenOffError: so.
    """
    try:
        yield
    except (OSError, RuntimeError, MemoryError, DatasetError) as error:
        why = _reason(error)
        if why is None:
            raise
        recipe, run = engine.recipe, engine.run
        how = f"continue with zoo train {recipe.method.name} --resume --out {run.path}"
        if is_full_memory(error):
            how = f"where another program took it, {how}"
        if not run.checkpoint.is_file():
            how = f"nothing was saved yet, begin again without {run.path}"
        raise BrokenOffError(f"broke off after step {engine.step} of {recipe.steps}: {why}; {how}") from error


def _reason(error: Exception) -> str | None:
    """Return what happened and what helps; None of what only a traceback tells."""
    text = str(error)
    last = text.strip().rpartition("\n")[2]  # an error of a worker brings its traceback along
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
