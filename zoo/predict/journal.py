"""`predictions.jsonl`, the journal of an output folder: one line for each predicted image.

The first line names the model; each other line is an image, or one that failed. The line of an image holds
the SHA-256 of its outputs and is written before they are renamed to their final names: an output that is not
listed, or has another hash, was not written by `zoo predict`, even after a run was killed.
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
    from collections.abc import Iterable, Iterator, Mapping

NAME = "predictions.jsonl"
FORMAT = "zoo predictions 1"
UNFINISHED = re.compile(r"\..+\.(png|tif|mkv|mp4|jsonl)\.\d+\.tmp")
"""Pattern of the names from `zoo.bundle.bundle.temporary_name`."""
START = re.compile(rb'\{"mask": "(?:[^"\\]|\\.)+", "written": \{[^{}]*\}')
"""Start of an image's line, which identifies its outputs even if the rest is damaged."""

SYNC_SECONDS = 1.0
"""Interval of fsync: a power failure loses at most the lines since then, a killed process none."""

Record = dict[str, Any]


class Journal:
    """Record of the predictions in a folder, written by one process at a time.

    Nothing is written before `start`.

    Args:
        out: output folder.
        header: `model` and `sha256` of the model.
        fresh: whether to predict everything again and overwrite existing files, whoever wrote them.
    """

    def __init__(self, out: Path, header: Record, *, fresh: bool = False) -> None:
        from filelock import FileLock

        self.out = out
        self.path = out / NAME
        self.header = {"format": FORMAT, **header}
        self.model = str(header.get("sha256", ""))[:12]
        self.fresh = fresh
        self.other_model = False
        self.lines: dict[str, bytes] = {}
        """Last line of each mask, by any model, by the name of the mask."""
        self._failed: list[bytes] = []
        self._done: set[str] = set()
        """Masks that exist as requested."""
        self._stale = True
        """Whether the file must be rewritten."""
        self._found = False
        """Whether the file existed when it was read."""
        self._file = -1
        self._begun, self._end = b"", 0
        """The last line that was appended, or begun, and where in the file it starts."""
        self._synced = 0.0
        self._lock = FileLock(out / f".{NAME}.lock", timeout=0)

    def __enter__(self) -> Self:
        """Read the existing journal, if any.

        Raises:
            ZooError: the folder holds an unrelated file of this name, or another process writes to it.
        """
        self._found = self.path.is_file()
        if self._found:
            self._acquire()
        try:
            if self._found:
                self._read()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, error: object, *_: object) -> None:
        """Remove superseded lines and release the lock."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            if error is None and self._stale:
                self._write_anew()
        self._lock.release()

    def latest(self, mask: str) -> Record | None:
        """Return the last line of a mask, by any model; None if there is none."""
        line = self.lines.get(mask)
        return None if line is None else json.loads(line)

    def is_current(self, record: Record) -> bool:
        """Return whether a line is by the current model and need not be predicted again."""
        return not self.fresh and record.get("model") == self.model

    def keep(self, mask: str) -> None:
        """Mark the outputs of an image as up to date."""
        self._done.add(mask)

    def record(self, mask: str) -> Record | None:
        """Return the last line of an image whose outputs are up to date; None for others."""
        return self.latest(mask) if mask in self._done else None

    def start(self) -> None:
        """Open the file for writing.

        Raises:
            ZooError: another process writes to the folder, or has done so since the file was read.
            OSError: the file cannot be written.
        """
        if self._file >= 0:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._acquire()
        if self.path.is_file() and not self._found:
            raise ZooError(
                f"another zoo predict wrote to {self.out} meanwhile: run the same command again, or choose "
                f"another folder with --out"
            )
        if self._found:
            _sweep(self.out)
        if self._stale:
            self._write_anew()
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def add(self, record: Record, files: Mapping[str, tuple[str, str]] | None = None) -> None:
        """Write the line of an image, then rename its outputs to their final names.

        A line is written completely or not at all.

        Args:
            record: line of the image; without `mask` if it failed.
            files: path of the temporary file and SHA-256 of each output, by its key in `record`.

        Raises:
            ZooError: a file that zoo did not write has taken one of the names; nothing is written.
            OSError: a file cannot be written.
        """
        mask = record.get("mask")
        if mask is None:
            line = _line(record)
            self._append(line)
            if self._failed[-1:] != [line]:
                self._failed.append(line)
            return
        files = files or {}
        written = self._written(record, files)
        line = _line({"mask": mask, "written": written, "model": self.model, **record})
        if self.lines.get(mask) != line:  # equal if an interrupt came between writing and renaming
            self._append(line)
            self._stale |= mask in self.lines
            self.lines[mask] = line
        for kind, (temporary, _) in files.items():
            Path(temporary).replace(self.out / record[kind])
        self._done.add(mask)

    def _written(self, record: Record, files: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
        """Return the SHA-256 of the versions of each output: the new one, then the existing one.

        Raises:
            ZooError: an existing file was not written by zoo.
        """
        from zoo.outputs import exists, is_unchanged, refusal

        former = written_of(self.latest(record["mask"]))
        written = dict(former)
        foreign = []
        for kind, (_, hash_) in files.items():
            path, written[kind] = self.out / record[kind], [hash_]
            if not exists(path):
                continue
            there = [each for each in former.get(kind, ()) if is_unchanged(path, [each])]
            written[kind] += [each for each in there if each != hash_]
            if not there:
                foreign.append(record[kind])
        if foreign and not self.fresh:
            raise refusal(self.out, foreign, "--out")
        return written

    def _append(self, line: bytes) -> None:
        """Append a line; the same line again, after an interrupt, only if it is not there yet."""
        if self._begun != line:
            self._end = os.fstat(self._file).st_size
            self._begun = line
        end, size = self._end, os.fstat(self._file).st_size
        if size == end + len(line):
            return
        if size != end:
            os.ftruncate(self._file, end)
        try:
            written = os.write(self._file, line)
            if written < len(line):
                os.write(self._file, line[written:])  # raises the reason
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

    def _write_anew(self) -> None:
        from zoo.bundle.bundle import replacing

        with replacing(self.path) as temporary, temporary.open("wb") as file:
            file.writelines((_line(self.header), *self.lines.values(), *self._failed))
            file.flush()
            os.fsync(file.fileno())
        self._stale = False

    def _read(self) -> None:
        """Read the last line of each image; a damaged line only identifies its outputs."""
        with self.path.open("rb") as file:
            header = _parse(file.readline())
            if header is None or header.get("format") != FORMAT:
                if self.fresh:
                    return
                raise ZooError(
                    f"{self.path} was not written by zoo predict, which would replace it: choose another "
                    f"folder with --out, or --overwrite it"
                )
            is_other = header.get("sha256") != self.header.get("sha256")
            self.other_model = is_other and not self.fresh
            self._stale = is_other or self.fresh
            for mask, line in _entries(file):
                if mask is None or mask in self.lines:
                    self._stale = True  # failed and to be tried again, damaged, or superseded
                if mask is not None:
                    self.lines[mask] = line


def written_of(record: Record | None) -> dict[str, list[str]]:
    """Return the SHA-256 of all versions of each output of an image, by kind."""
    written: dict[str, list[str]] = (record or {}).get("written", {})
    return written


def listed(out: Path) -> Iterator[Record]:
    """Yield the line of each image in the journal of a folder, if it has one."""
    path = out / NAME
    if path.is_file():
        with path.open("rb") as file:
            for mask, line in _entries(file):
                if mask is not None:
                    yield json.loads(line)


def _entries(lines: Iterable[bytes]) -> Iterator[tuple[str | None, bytes]]:
    """Yield the mask and the line of each image; the mask is None if the line is damaged or has none.

    The intact start of a damaged line follows as a separate line.
    """
    for line in lines:
        record = _parse(line)
        if record is None or not isinstance(record.get("mask"), str):
            yield None, line
            start = START.match(line)
            record = None if start is None else _parse(start[0] + b"}\n")
            if start is None or record is None:
                continue
            line = start[0] + b"}\n"
        yield record["mask"], line


def _sweep(out: Path) -> None:
    """Remove unfinished temporary files of a killed process."""
    for folder, _, names in os.walk(out):
        for name in names:
            if UNFINISHED.fullmatch(name):
                Path(folder, name).unlink(missing_ok=True)


def _line(record: Record) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _parse(line: bytes) -> Record | None:
    """Return the parsed line; None if it is incomplete or invalid."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
