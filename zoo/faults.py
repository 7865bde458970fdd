"""Machine faults that any command may meet, a full disk or memory, and their one-line messages."""

from __future__ import annotations

import errno
import os
import sys

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""No space left, quota exceeded, file too large."""
NO_SPACE = os.strerror(errno.ENOSPC)
"""Text by which libraries report a full disk in errors without an errno."""
CPU_MEMORY = "DefaultCPUAllocator: "
"""Text of torch's error when the CPU's memory is full."""


def is_full_disk(error: BaseException) -> bool:
    """Return whether the error reports a full disk."""
    return (isinstance(error, OSError) and error.errno in FULL_DISK) or NO_SPACE in str(error)


def is_full_memory(error: BaseException) -> bool:
    """Return whether the error reports that the memory of a GPU or of the machine is full."""
    torch = sys.modules.get("torch")  # if it is not loaded, it cannot have raised
    kinds = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or CPU_MEMORY in str(error)


def fault_line(error: BaseException) -> str | None:
    """Return the message for a machine fault, with what to do; None for any other error."""
    if is_full_memory(error):
        return (
            "the memory is full: end what else needs it, or take less at once "
            "(a smaller --batch, --imgsz or number of --workers)"
        )
    if is_full_disk(error):
        found = (getattr(error, "strerror", None) or NO_SPACE, getattr(error, "filename", None))
        return f"the disk is full ({': '.join(map(str, filter(None, found)))}): make room and begin again"
    return None
