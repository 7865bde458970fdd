"""Faults of the machine that any command may meet, a full disk or memory: how each is known, and its line."""

from __future__ import annotations

import errno
import os
import sys

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""No room, no quota, a file longer than it may be."""
NO_SPACE = os.strerror(errno.ENOSPC)
"""What libraries whose errors have no number say of a full disk."""
CPU_MEMORY = "DefaultCPUAllocator: "
"""What torch names where the CPU's memory is full."""


def is_full_disk(error: BaseException) -> bool:
    """Return whether a file could not be written for lack of room."""
    return (isinstance(error, OSError) and error.errno in FULL_DISK) or NO_SPACE in str(error)


def is_full_memory(error: BaseException) -> bool:
    """Return whether the memory of a GPU or of the machine is full."""
    torch = sys.modules.get("torch")  # who has not loaded it cannot have met its error
    kinds = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or CPU_MEMORY in str(error)


def fault_line(error: BaseException) -> str | None:
    """Return the line for a fault of the machine, with what to do; None of what only a traceback tells."""
    if is_full_memory(error):
        return (
            "the memory is full: end what else needs it, or take less at once "
            "(a smaller --batch, --imgsz or number of --workers)"
        )
    if is_full_disk(error):
        found = (getattr(error, "strerror", None) or NO_SPACE, getattr(error, "filename", None))
        return f"the disk is full ({': '.join(map(str, filter(None, found)))}): make room and begin again"
    return None
