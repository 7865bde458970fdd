"""Lock of a run folder, which also shows whether the training process is alive."""

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
"""Attempts to take the lock, since `is_locked` holds it for a moment."""
BUSY = {errno.EACCES, errno.EAGAIN}
HELD: set[Path] = set()
"""Folders locked by this process: opening and closing a lock file again would release its lock."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder in the block or until this process ends; child processes do not hold the lock.

    Raises:
        RecipeError: another process trains in this folder.
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
    """Return whether a process on any machine with this file system trains in a folder."""
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
    """Take the lock and return whether it was free."""
    for _ in range(TRIES):
        try:
            # owned by the process, not the open file: workers that outlive a killed run do not hold it
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
