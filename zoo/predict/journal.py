"""`predictions.jsonl`: what was predicted into a folder, of which file and by which model, one line each.

The first line names the model; each other line is an image, or one that failed. The line of an image holds
the SHA-256 of its outputs and is written before they get their names: an output that is not listed, or that
has another hash, was not written by `zoo predict`, also where a run was killed.
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
UNFINISHED = re.compile(r"\..+\.(png|jsonl)\.\d+\.tmp")
"""Names of `zoo.bundle.bundle.temporary_name`."""
START = re.compile(rb'\{"mask": "(?:[^"\\]|\\.)+", "written": \{[^{}]*\}')
"""Start of an image's line, which tells whose its outputs are even if the rest is damaged."""

SYNC_SECONDS = 1.0
"""A power failure loses what was written since; a killed process loses nothing."""

Record = dict[str, Any]


class Journal:
    """The predictions of a folder, kept while they are made; one process at a time writes it.

    Nothing is written before `start`.

    Args:
        out: the folder.
        header: of the model: `model` and `sha256`.
        fresh: predict everything again, whoever wrote what is there.
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
        """The last line of each mask, of any model, by the name of the mask."""
        self._failed: list[bytes] = []
        self._done: set[str] = set()
        """Masks that are there as they are wanted."""
        self._stale = True
        """Whether the file must be written anew."""
        self._found = False
        """Whether there was a file when it was read."""
        self._file = -1
        self._synced = 0.0
        self._lock = FileLock(out / f".{NAME}.lock", timeout=0)

    def __enter__(self) -> Self:
        """Read what is there.

        Raises:
            ZooError: the folder holds another file of this name, or another process writes to it.
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
        """Remove superseded lines and let others write."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            if error is None and self._stale:
                self._write_anew()
        self._lock.release()

    def latest(self, mask: str) -> Record | None:
        """Return the last line of a mask, of any model, None if there is none."""
        line = self.lines.get(mask)
        return None if line is None else json.loads(line)

    def is_current(self, record: Record) -> bool:
        """Return whether a line is of the model that predicts now."""
        return not self.fresh and record.get("model") == self.model

    def keep(self, mask: str) -> None:
        """Note that the outputs of an image need not be predicted again."""
        self._done.add(mask)

    def record(self, mask: str) -> Record | None:
        """Return what is known of an image whose outputs are as they are wanted, None of others."""
        return self.latest(mask) if mask in self._done else None

    def start(self) -> None:
        """Make the file ready to be written to.

        Raises:
            ZooError: another process writes to the folder, or did so since the file was read.
            OSError: it cannot be written.
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
        """Write the line of an image, then give its outputs their names.

        A line is there whole or not at all.

        Args:
            record: what is known of the image; without `mask` if it failed.
            files: path of the temporary file and SHA-256 of each output, by its key in `record`.

        Raises:
            ZooError: one of the names was taken meanwhile, by a file that is not ours; nothing is written.
            OSError: it cannot be written.
        """
        mask = record.get("mask")
        if mask is None:
            self._failed.append(_line(record))
            self._append(self._failed[-1])
            return
        files = files or {}
        written = self._written(record, files)
        line = _line({"mask": mask, "written": written, "model": self.model, **record})
        if self.lines.get(mask) != line:  # as where an interrupt came between the line and the names
            self._append(line)
            self._stale |= mask in self.lines
            self.lines[mask] = line
        for kind, (temporary, _) in files.items():
            Path(temporary).replace(self.out / record[kind])
        self._done.add(mask)

    def _written(self, record: Record, files: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
        """Return the SHA-256 of what was written as each output: the new one, then the one that is there.

        Raises:
            ZooError: something else is there.
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

    def _write_anew(self) -> None:
        from zoo.bundle.bundle import replacing

        with replacing(self.path) as temporary, temporary.open("wb") as file:
            file.writelines((_line(self.header), *self.lines.values(), *self._failed))
            file.flush()
            os.fsync(file.fileno())
        self._stale = False

    def _read(self) -> None:
        """Read the last line of each image; a damaged one tells only whose its outputs are."""
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
                    self._stale = True  # failed, and tried again; damaged; superseded
                if mask is not None:
                    self.lines[mask] = line


def written_of(record: Record | None) -> dict[str, list[str]]:
    """Return the SHA-256 of everything that was written as each output of an image, by kind."""
    written: dict[str, list[str]] = (record or {}).get("written", {})
    return written


def listed(out: Path) -> Iterator[Record]:
    """Yield `mask` and `written` of each image that the journal of a folder lists; nothing if it has none."""
    path = out / NAME
    if path.is_file():
        with path.open("rb") as file:
            for mask, line in _entries(file):
                if mask is not None:
                    yield json.loads(line)


def _entries(lines: Iterable[bytes]) -> Iterator[tuple[str | None, bytes]]:
    """Yield the mask and the line of each image, None for a line that is damaged or has no mask.

    The start of a damaged line follows as a line of its own.
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
