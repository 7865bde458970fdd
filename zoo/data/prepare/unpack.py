"""Safe unpacking of third-party archives: plain files only, none outside the folder, all of them or none."""

from __future__ import annotations

import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, cast

from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoo.data.prepare.download import Report

BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)


def unpack(archive: Path, folder: Path, is_wanted: Callable[[str], bool], report: Report) -> None:
    """Unpack files of a zip or tar archive to a temporary folder, then move them into place.

    Args:
        archive: zip file, with the suffix `.zip`, or tar file, compressed or not.
        folder: existing folder, whose files are replaced one by one.
        is_wanted: returns whether to unpack a path of the archive.
        report: called with a description and the number of files done.

    Raises:
        DatasetError: an archive that is missing or truncated, leads out of the folder or contains links.
    """
    with working_folder(folder) as working:
        for done, (name, content) in enumerate(members(archive, is_wanted), start=1):
            target = working / name
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    shutil.copyfileobj(content, file)
            except BROKEN as error:
                raise _broken(archive, error) from error
            report(f"unpacking {archive.name}", done, None)
        merge(working, folder)


@contextmanager
def working_folder(folder: Path) -> Iterator[Path]:
    """Create a temporary folder inside another, from which files can be moved, and remove it at the end."""
    working = Path(tempfile.mkdtemp(prefix=".prepare-", dir=folder))
    try:
        yield working
    finally:
        shutil.rmtree(working, ignore_errors=True)


def merge(source: Path, target: Path) -> None:
    """Move a file or folder to a path; if it is an existing folder, merge their contents."""
    if target.is_dir() and source.is_dir():
        for inner in sorted(source.iterdir()):
            merge(inner, target / inner.name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)


def members(archive: Path, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield path and content of the wanted files of an archive, in its order.

    Raises:
        DatasetError: an archive that is missing or truncated, leads out of the folder or contains links.
    """
    read = _zipped if archive.suffix.lower() == ".zip" else _tarred
    try:
        yield from read(archive, is_wanted)
    except BROKEN as error:
        raise _broken(archive, error) from error


def _broken(archive: Path, error: BaseException) -> DatasetError:
    reason = (isinstance(error, OSError) and error.strerror) or error  # without a temporary path
    return DatasetError(
        f"{archive}: got an archive that cannot be unpacked ({reason}), expected a whole one and room for "
        f"its files: make room, or remove the archive and fetch it again"
    )


def _tarred(archive: Path, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isdir():
                continue
            name = _safe(archive, member.name, is_plain=member.isreg())
            if is_wanted(name):
                yield name, cast("IO[bytes]", tar.extractfile(member))


def _zipped(archive: Path, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as zip_:
        for member in zip_.infolist():
            if member.is_dir():
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            name = _safe(archive, member.filename, is_plain=kind in (0, stat.S_IFREG))
            if is_wanted(name):
                with zip_.open(member) as content:
                    yield name, content


def _safe(archive: Path, name: str, *, is_plain: bool) -> str:
    """Return the path of a member, without leading `./`, or raise if it is unsafe."""
    path = PurePosixPath(name)
    if not is_plain or path.is_absolute() or ".." in path.parts or set("\\:\0") & set(name):
        raise DatasetError(
            f"{archive}: got the member {name!r}, expected plain files inside the folder: this is not the "
            f"official archive, nothing was unpacked"
        )
    return path.as_posix()
