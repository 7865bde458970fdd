"""Cache of decoded pixels in memory that the data workers of a process share.

The memory is an anonymous file (memfd_create(2), on Linux only): it grows as it is written, and the system
frees it when the last process that holds it ends, for whatever reason.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.data.cache.cached import GB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from zoo.data.cache.cached import Kind
    from zoo.image_format import Dtype

log = logging.getLogger(__name__)

KINDS: tuple[Kind, ...] = ("image", "mask")
NOTHING, IN_WORK = 0, -1
"""Values of `PLACE` for pixels that are not cached, or are being written."""
PLACE, HEIGHT, WIDTH, CHANNELS = range(4)
COLUMNS = 4
"""Columns of the int64 table, which has a row for each id and kind."""
USED, IS_FULL = 0, 1
ALIGNMENT = 64


class MemoryCache:
    """Cache that stores pixels in shared memory up to a limit.

    Args:
        ids: ids whose pixels may be cached.
        limit: most bytes of pixels.
        dtype: element type of images; masks are uint8.
    """

    def __init__(self, ids: Sequence[str], limit: int, dtype: Dtype = "uint8") -> None:
        self.limit = limit
        self._dtypes: dict[Kind, np.dtype[Any]] = {"image": np.dtype(dtype), "mask": np.dtype(np.uint8)}
        self._rows = {id_: 2 * number for number, id_ in enumerate(dict.fromkeys(ids))}
        self._begin = -(-8 * (2 + 2 * COLUMNS * len(self._rows)) // mmap.PAGESIZE) * mmap.PAGESIZE
        file = os.memfd_create("zoo-pixels")
        os.truncate(file, self._begin + limit)
        self._open(file)

    def get(self, kind: Kind, id_: str) -> NDArray[Any] | None:
        """Return the cached pixels, which must not be written to; None if they are not cached."""
        with self._locked(fcntl.LOCK_SH):
            place, height, width, channels = self._table[self._row(kind, id_)].tolist()
        if place in (NOTHING, IN_WORK):
            return None
        shape = (height, width, channels) if channels else (height, width)
        return np.ndarray(shape, self._dtypes[kind], self._map, place)

    def put(self, kind: Kind, id_: str, pixels: NDArray[Any]) -> None:
        """Store pixels, (H, W, C) or (H, W), if there is room and no other process is storing them."""
        row = self._table[self._row(kind, id_)]
        place = self._reserve(row, pixels.nbytes)
        if place is None:
            return
        kept = np.ndarray(pixels.shape, self._dtypes[kind], self._map, place)
        kept[...] = pixels
        with self._locked(fcntl.LOCK_EX):
            row[:] = (place, *pixels.shape, *([0] if pixels.ndim == 2 else []))

    def _row(self, kind: Kind, id_: str) -> int:
        return self._rows[id_] + KINDS.index(kind)

    def _reserve(self, row: NDArray[np.int64], size: int) -> int | None:
        """Return the offset of newly reserved space; None if there is no room or the row is taken."""
        with self._locked(fcntl.LOCK_EX):
            if row[PLACE] != NOTHING:
                return None
            place = self._begin + int(self._head[USED])
            if not self._takes(place, size):
                self._say_full()
                return None
            self._head[USED] += -(-size // ALIGNMENT) * ALIGNMENT
            row[PLACE] = IN_WORK
            return place

    def _takes(self, place: int, size: int) -> bool:
        """Allocate memory and return whether there is room: a write that cannot allocate is fatal."""
        if place + size > self._begin + self.limit:
            return False
        try:
            os.posix_fallocate(self._file.fileno(), place, size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.ENOMEM):
                raise
            return False
        return True

    def _say_full(self) -> None:
        """Log once that the cache is full."""
        if not self._head[IS_FULL]:
            self._head[IS_FULL] = 1
            kept = int((self._table[:, PLACE] != NOTHING).sum())
            log.warning(
                "data.cache memory is full: %d of %d images and masks in %.2f GB; the others are decoded "
                "each time (--set data.cache_gb=... for more, or data.cache=disk)",
                kept,
                len(self._table),
                self._head[USED] / GB,
            )

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Hold a file lock, which the system releases if this process dies."""
        fcntl.lockf(self._file, how)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _open(self, file: int) -> None:
        self._file = os.fdopen(file, "r+b", buffering=0)
        self._map = mmap.mmap(file, self._begin + self.limit)
        self._head = np.ndarray(2, np.int64, self._map)
        self._table = np.ndarray((2 * len(self._rows), COLUMNS), np.int64, self._map, 8 * 2)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "limit": self.limit,
            "dtypes": self._dtypes,
            "rows": self._rows,
            "begin": self._begin,
            "path": f"/proc/{os.getpid()}/fd/{self._file.fileno()}",
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.limit, self._rows, self._begin = state["limit"], state["rows"], state["begin"]
        self._dtypes = state["dtypes"]
        self._open(os.open(Path(state["path"]), os.O_RDWR))
