"""What worker processes are started in: variables, blocked interrupts, a folder for what they measure."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MEMORY = Path("/dev/shm")
"""A folder of Linux that lies in memory."""


@contextmanager
def shared_folder(workers: int) -> Iterator[str]:
    """Give a folder for the figures of several workers, in memory: a full disk must not end them."""
    if workers == 1:
        yield ""
        return
    in_memory = MEMORY.is_dir() and os.access(MEMORY, os.W_OK)
    with TemporaryDirectory(
        prefix="zoo-", dir=MEMORY if in_memory else None, ignore_cleanup_errors=True
    ) as it:
        yield it


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Let processes that are started in the block never see a Ctrl-C, which the terminal sends to all."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # else it is started in the block and ends it
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Give processes that are started in the block other variables; None leaves one as it is."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in changes.items() if value is not None})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
