"""Sessions of a runtime, reopened after an error and in forked processes.

OpenVINO keeps the state that a failed inference left in its graph: the next images fail, or get old masks.
Locks, threads and sockets of a process do not work in a process forked from it.
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
    """A file opened by a runtime, for any number of threads.

    Args:
        path: path of the file, which must not change.
        make: function that opens the file.
        alone: whether only one thread at a time may use it.

    Raises:
        Exception: any exception of `make`.
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
        """Yield the opened file; after an exception in the block it is discarded.

        Raises:
            BundleError: the file must be reopened, but is missing or was replaced.
        """
        with self._turn:
            made = self._current()
            try:
                yield made
            except BaseException:
                self.forget(made)
                raise

    def forget(self, made: T) -> None:
        """Discard an opened file, unless it was reopened already."""
        with self._lock:
            if self._made is made:
                self._made = None

    def renew(self) -> None:
        """Discard the parent's file without freeing it, which would wait for threads of the parent."""
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
"""Inode, size and modification time of a file."""


def stamp(path: Path) -> Stamp | None:
    """Return the identity of a file; None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def check_same(path: Path, before: Stamp | None) -> None:
    """Raise unless a file is the same as before.

    Raises:
        BundleError: a file that is missing or was replaced.
    """
    now = stamp(path)
    if now is None or now != before:
        what = "is gone" if now is None else "was replaced"
        raise BundleError(f"{path} {what} since it was loaded: load the model again")


def forked(what: str) -> BundleError:
    """Return the error for a model that cannot be used in a forked process.

    Args:
        what: kind of model.
    """
    return BundleError(
        f"{what} cannot be used in a process that was forked from the one that loaded it: start processes by "
        f"spawn and load it in each"
    )


class ForkAware(Protocol):
    """An object that must be renewed in a forked process."""

    def renew(self) -> None:
        """Replace locks, threads and sockets of the parent; called before anything else in the child."""


_renewed: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def renew_after_fork(owner: ForkAware) -> None:
    """Call `renew` of an object in each process that is forked from this one."""
    _renewed.add(owner)


def _renew_all() -> None:
    for owner in list(_renewed):
        owner.renew()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_renew_all)
