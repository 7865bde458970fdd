"""`predictions.jsonl`: what was predicted into a folder, of which file and by which model, one line each.

The first line names the model; each other line is an image, or one that failed. A line is added when the
files of its image are complete, so that a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from zoo.errors import ZooError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NAME = "predictions.jsonl"
FORMAT = "zoo predictions 1"
UNFINISHED = re.compile(r"\..+\.(png|jsonl)\.\d+\.tmp")
"""Names of `zoo.bundle.bundle.replacing`."""

SYNC_SECONDS = 1.0
"""A power failure loses what was written since; a killed process loses nothing."""

Record = dict[str, Any]


class Journal:
    """The predictions of a folder, kept while they are made; one process at a time writes it.

    Nothing is written before `start`.

    Args:
        out: the folder.
        header: of the model: `model` and `sha256`.
        fresh: forget what is there.
    """

    def __init__(self, out: Path, header: Record, *, fresh: bool = False) -> None:
        from filelock import FileLock

        self.path = out / NAME
        self.header = {"format": FORMAT, **header}
        self.other_model = False
        self.lines: dict[str, bytes] = {}
        """By the name of the mask."""
        self._stale = True
        """Whether the file must be written anew."""
        self._fresh = fresh
        self._file = -1
        self._synced = 0.0
        self._lock = FileLock(out / f".{NAME}.lock", timeout=0)

    def __enter__(self) -> Self:
        """Read what is there.

        Raises:
            ZooError: the folder holds another file of this name, or another process writes to it.
        """
        if self.path.parent.is_dir():
            self._acquire()
        try:
            if not self._fresh and self.path.is_file():
                self._read()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Let others write."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.release()

    def record(self, mask: str) -> Record | None:
        """Return what is known of the image of a mask, None if nothing."""
        line = self.lines.get(mask)
        return None if line is None else json.loads(line)

    def keep(self, is_right: Callable[[Record], bool]) -> None:
        """Forget the images whose results do not hold any more."""
        before = len(self.lines)
        self.lines = {mask: line for mask, line in self.lines.items() if is_right(json.loads(line))}
        self._stale |= len(self.lines) != before

    def start(self) -> None:
        """Make the file ready to be written to; before any result is replaced, so that no line is wrong.

        Raises:
            ZooError: another process writes to the folder.
            OSError: it cannot be written.
        """
        if self._file >= 0:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._acquire()
        if self.path.is_file():
            _sweep(self.path.parent)
        if self._stale:
            self._write_anew((_line(self.header), *self.lines.values()))
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def add(self, record: Record) -> None:
        """Write what is known of an image; a line is there whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        line = _line(record)
        if record.get("mask"):
            self.lines[record["mask"]] = line
        end = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
            if written < len(line):
                os.write(self._file, line[written:])  # says why
        except OSError:
            os.ftruncate(self._file, end)
            raise
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file)
            self._synced = time.monotonic()

    def _acquire(self) -> None:
        from filelock import Timeout

        if self._lock.is_locked:
            return
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ZooError(
                f"another zoo predict writes to {self.path.parent}: wait for it, or choose another folder "
                f"with --out"
            ) from error
        except OSError as error:
            raise ZooError(
                f"{self.path.parent} cannot be written to ({error.strerror}): choose another with --out"
            ) from error

    def _write_anew(self, lines: Iterable[bytes]) -> None:
        from zoo.bundle.bundle import replacing

        with replacing(self.path) as temporary, temporary.open("wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        """Read the lines of the same model; a last line that was cut short is none."""
        with self.path.open("rb") as file:
            header = _parse(file.readline())
            if header is None or header.get("format") != FORMAT:
                raise ZooError(
                    f"{self.path} is no file of zoo predict, which would write one there: choose another "
                    f"folder with --out, or --overwrite it"
                )
            self.other_model = header.get("sha256") != self.header["sha256"]
            if self.other_model:
                return
            self._stale = False
            for line in file:
                record = _parse(line)
                if record is None or not record.get("mask"):
                    self._stale = True  # cut short, or failed: tried again
                else:
                    self.lines[record["mask"]] = line


def _sweep(out: Path) -> None:
    """Remove the files that a killed process had not finished."""
    for folder, _, names in os.walk(out):
        for name in names:
            if UNFINISHED.fullmatch(name):
                Path(folder, name).unlink(missing_ok=True)


def _line(record: Record) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _parse(line: bytes) -> Record | None:
    """Return what a line says, None if it is not a whole one."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
