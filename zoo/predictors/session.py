"""What a runtime makes of a file: made anew after an error, and in a process that was forked.

OpenVINO goes on with what a failed inference left in its graph: the next images fail, or get old masks.
Locks, threads and sockets of a process do not work in one that was forked from it.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from zoo.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

T = TypeVar("T")


class Session(Generic[T]):
    """What a runtime has made of a file, for any number of threads.

    Args:
        path: of the file, which must stay the same: nobody asked for another model.
        make: opens the file.
        alone: whether only one thread at a time may use it.

    Raises:
        Exception: what `make` raises.
    """

    def __init__(self, path: Path, make: Callable[[], T], *, alone: bool) -> None:
        self._path = path
        self._make = make
        self._alone = alone
        self._stamp = stamp(path)
        self._new_locks()
        self._made: T | None = make()
        renew_after_fork(self)

    @contextmanager
    def use(self) -> Iterator[T]:
        """Give what was made; after an exception in the block nobody gets it again.

        Raises:
            BundleError: it must be made anew, and the file is gone or is another one.
        """
        with self._turn:
            made = self._current()
            try:
                yield made
            except BaseException:
                self.forget(made)
                raise

    def forget(self, made: T) -> None:
        """Let nobody get what was made again, unless it has been made anew already."""
        with self._lock:
            if self._made is made:
                self._made = None

    def renew(self) -> None:
        """Forget what the parent made, but never free it: that would wait for threads that are not here."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._made))
        self._made = None
        self._new_locks()

    def _new_locks(self) -> None:
        self._lock = threading.Lock()
        self._turn: AbstractContextManager[Any] = threading.Lock() if self._alone else nullcontext()

    def _current(self) -> T:
        with self._lock:
            if self._made is None:
                check_same(self._path, self._stamp)
                self._made = self._make()
            return self._made


Stamp = tuple[int, int, int]
"""Inode, size and time of a file."""


def stamp(path: Path) -> Stamp | None:
    """Return what tells a file from another one of its name, None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def check_same(path: Path, before: Stamp | None) -> None:
    """Raise unless a file is the one that it was.

    Raises:
        BundleError: it is gone, or another one.
    """
    now = stamp(path)
    if now is None or now != before:
        what = "is gone" if now is None else "was replaced"
        raise BundleError(f"{path} {what} since it was loaded: load the model again")


class Renewed(Protocol):
    """What works in a forked process only after it was told of it."""

    def renew(self) -> None:
        """Replace locks, threads and sockets of the parent; nothing else runs yet."""


_renewed: weakref.WeakSet[Renewed] = weakref.WeakSet()


def renew_after_fork(owner: Renewed) -> None:
    """Call `renew` of an object in each process that is forked from this one."""
    _renewed.add(owner)


def _renew_all() -> None:
    for owner in list(_renewed):
        owner.renew()


if hasattr(os, "register_at_fork"):  # Windows forks no process
    os.register_at_fork(after_in_child=_renew_all)
