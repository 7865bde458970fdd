"""Alternate signal stack of this thread (sigaltstack), protected from libraries that replace it.

OpenVINO sets its own stack while it compiles a model, and restores the previous one when the model is freed.
If two models are freed in the order of their creation, the second restores the freed stack of the first, and
the next Ctrl-C kills the process, because Python's handlers run on that stack.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class SignalStack(ctypes.Structure):
    """`stack_t` of POSIX, in Linux's layout."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def same_signal_stack() -> Iterator[None]:
    """Restore the signal stack of this thread at the end of the block."""
    if sys.platform != "linux":
        yield
        return
    before = signal_stack()
    try:
        yield
    finally:
        _exchange(before, None)


def signal_stack() -> SignalStack:
    """Return the signal stack of this thread, on Linux."""
    stack = SignalStack()
    _exchange(None, stack)
    return stack


def _exchange(new: SignalStack | None, old: SignalStack | None) -> None:
    pointers = [None if stack is None else ctypes.byref(stack) for stack in (new, old)]
    ctypes.CDLL(None).sigaltstack(*pointers)
