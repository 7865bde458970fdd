"""Keeping a run folder to one process, and seeing from outside whether that process lives."""

from __future__ import annotations

import errno
import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zoo.errors import RecipeError

try:
    import fcntl
except ModuleNotFoundError:  # Windows, which has no such lock
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

LOCK_NAME = ".lock"
TRIES, PAUSE_S = 20, 0.05
"""Those who only look hold the lock for a moment."""
BUSY = {errno.EACCES, errno.EAGAIN}
HELD: set[Path] = set()
"""Folders that this process trains in: to open and close a lock file again would give the lock up."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a folder as long as this one lives; its children hold nothing.

    Raises:
        RecipeError: another process trains there.
    """
    with (folder / LOCK_NAME).open("w") as file:
        if fcntl is not None and not _take(file):
            raise RecipeError(
                f"{folder} is being trained by another process, expected none: wait for its end, or end it"
            )
        held = folder.resolve()
        HELD.add(held)
        try:
            yield
        finally:
            HELD.remove(held)


def is_locked(folder: Path) -> bool:
    """Return whether a process on a machine that shares the file system trains in a folder."""
    path = folder / LOCK_NAME
    if folder.resolve() in HELD:
        return True
    if fcntl is None or not path.is_file():
        return False
    try:
        with path.open() as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in BUSY
    return False


def _take(file: Any) -> bool:
    """Return whether nobody else holds the lock, which this process holds from now on."""
    for _ in range(TRIES):
        try:
            # of the process, not of the open file: workers that outlive a killed run for seconds keep nothing
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in BUSY:
                log.warning(
                    "%s: no locks here (%s): two processes could train in it", file.name, error.strerror
                )
                return True
            time.sleep(PAUSE_S)
        else:
            return True
    return False
