"""The memory that signal handlers of this thread run on (sigaltstack), which a library may replace.

OpenVINO sets one of its own while it compiles a model and puts the former one back when the model is freed.
Of two models that are freed in the order they were made, the second puts back what the first has freed
already: the next Ctrl-C then kills the process (Python's handlers run on that stack).
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class SignalStack(ctypes.Structure):
    """`stack_t` of POSIX, as Linux lays it out."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def same_signal_stack() -> Iterator[None]:
    """Put the signal stack of this thread back when the block ends."""
    if sys.platform != "linux":
        yield
        return
    before = signal_stack()
    try:
        yield
    finally:
        _exchange(before, None)


def signal_stack() -> SignalStack:
    """Return where signal handlers of this thread run, on Linux."""
    stack = SignalStack()
    _exchange(None, stack)
    return stack


def _exchange(new: SignalStack | None, old: SignalStack | None) -> None:
    pointers = [None if stack is None else ctypes.byref(stack) for stack in (new, old)]
    ctypes.CDLL(None).sigaltstack(*pointers)
