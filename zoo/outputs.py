"""Output files in a user's folder: files that zoo wrote may be replaced, all others are kept."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zoo.bundle.bundle import check_writable, write_json
from zoo.bundle.manifest import sha256
from zoo.errors import ZooError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

LEDGER_NAME = ".zoo-outputs.json"
"""File with the SHA-256 of each report that zoo wrote to the folder, by name; null during writing."""

SHOWN = 3
"""Number of files that an error names."""

OVERWRITE = "replace existing files with --overwrite"
MOVE = "move them away"


def is_unchanged(path: Path, hashes: Collection[str]) -> bool:
    """Return whether an existing file is still as zoo wrote it.

    A symbolic link never is. An empty file is if zoo wrote any file there: power failures leave empty files.

    Args:
        path: path of the file.
        hashes: SHA-256 of every version that zoo wrote there.
    """
    if not hashes or path.is_symlink() or not path.is_file():
        return False
    try:
        return path.stat().st_size == 0 or sha256(path) in hashes
    except OSError:
        return False


def exists(path: Path) -> bool:
    """Return whether anything exists at this path, including a broken symbolic link."""
    return path.exists() or path.is_symlink()


def is_record(path: Path, keys: Iterable[str]) -> bool:
    """Return whether a file is a JSON object with these keys, which identify it as written by zoo."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.keys() >= set(keys)


def refusal(folder: Path, names: Sequence[str], option: str, instead: str = OVERWRITE) -> ZooError:
    """Return the error for files that would be overwritten.

    Args:
        folder: output folder.
        names: paths of the files, relative to the folder.
        option: command-line option that sets the folder.
        instead: alternative to another folder, for the message.
    """
    listed = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
    files, were = ("file", "was") if len(names) == 1 else ("files", "were")
    return ZooError(
        f"{len(names):,} {files} in {folder} would be overwritten, but {were} not written by this command or "
        f"{were} edited since ({listed}): choose another {option}, or {instead}"
    )


class Outputs:
    """The files that a command writes to a folder, checked before the work starts.

    Args:
        folder: output folder; it need not exist.
        names: names of the files.
        option: command-line option that sets the folder, for the error.
        overwrite: whether to replace files of these names that zoo did not write.

    Raises:
        ZooError: the folder cannot be written, or holds files of these names that zoo did not write.
    """

    def __init__(self, folder: Path, names: Sequence[str], option: str, *, overwrite: bool = False) -> None:
        check_writable(folder)
        self.folder = folder
        self.names = names
        self.option = option
        self.overwrite = overwrite
        self._check()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Create the folder and record the hashes of the files that the block writes.

        Raises:
            ZooError: a file that zoo did not write has appeared since.
        """
        self._check()
        self.folder.mkdir(parents=True, exist_ok=True)
        others = {name: hash_ for name, hash_ in self._read().items() if name not in self.names}
        self._write({**others, **dict.fromkeys(self.names)})
        try:
            yield
        finally:
            paths = {name: self.folder / name for name in self.names}
            self._write(others | {name: sha256(path) for name, path in paths.items() if path.is_file()})

    def _check(self) -> None:
        if self.overwrite:
            return
        ledger = self._read()
        foreign = [
            name for name in self.names if exists(self.folder / name) and not self._is_ours(name, ledger)
        ]
        if foreign:
            raise refusal(self.folder, foreign, self.option)

    def _is_ours(self, name: str, ledger: dict[str, str | None]) -> bool:
        if name not in ledger:
            return False
        written = ledger[name]
        return written is None or is_unchanged(self.folder / name, [written])

    def _read(self) -> dict[str, str | None]:
        """Return the ledger of the folder; empty if it is missing or damaged."""
        try:
            files = json.loads((self.folder / LEDGER_NAME).read_bytes())["files"]
            return {name: hash_ for name, hash_ in files.items() if hash_ is None or isinstance(hash_, str)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _write(self, files: dict[str, str | None]) -> None:
        path = self.folder / LEDGER_NAME
        if files:
            write_json(path, {"files": files})
        else:
            path.unlink(missing_ok=True)
