"""Making a published data set: each archive is found or downloaded, checked and laid out, unless it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zoo.data.open import open_source
from zoo.data.prepare.download import download, sums_of
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.data.prepare.archives import Archive, DataSet
    from zoo.data.prepare.download import Report, Sums

DOWNLOADS = "downloads"
LOGIN = "https://www.cityscapes-dataset.com/login/"


class Made(NamedTuple):
    """One archive whose contents were laid out."""

    name: str
    sums: Sums
    is_official: bool
    """Whether the MD5 sum is the official one; False if none is known."""


class Origin(NamedTuple):
    """Where archives are looked for."""

    url: str | None = None
    """Folder of a web server, the archives in it under their official names; None for their own addresses."""
    folder: Path | None = None
    """The same on disk."""


def todo(data_set: DataSet, folder: Path, origin: Origin) -> list[Archive]:
    """Return the archives whose contents a folder lacks; of the optional ones, those found at the origin."""
    wanted = [*data_set.archives, *(archive for archive in data_set.optional if _is_at(archive, origin))]
    return [archive for archive in wanted if not archive.is_applied(folder)]


def prepare(archives: list[Archive], folder: Path, origin: Origin, report: Report) -> list[Made]:
    """Lay the contents of archives out in a folder.

    Args:
        archives: see `todo`.
        folder: made if it is missing; what is downloaded lies in `downloads` in it until it is laid out.
        origin: of the archives.
        report: called with what is being done, how much of it is, and how much there is, None if unknown.

    Raises:
        DatasetError: an archive cannot be had, is not the official one, or cannot be unpacked.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_make(archive, folder, origin, report) for archive in archives]
    except OSError as error:
        raise DatasetError(
            f"{folder}: got {error}, expected a folder to write to, with room: correct that and run the "
            f"command again, what is done is kept"
        ) from error


def count(data_set: DataSet, folder: Path) -> tuple[int, int]:
    """Return the number of training and validation images that a folder holds.

    Raises:
        DatasetError: its reader misses something.
    """
    source = open_source(f"{data_set.spec}:{folder}")
    return len(source.ids("train")), len(source.ids("val"))


def _make(archive: Archive, folder: Path, origin: Origin, report: Report) -> Made:
    """Lay the contents of one archive out and remove it, if it is ours."""
    path = _find(archive, folder, origin, report)
    is_ours = origin.folder is None
    sums = sums_of(path, report)
    if archive.md5 not in (None, sums.md5):
        raise _wrong_sum(archive, path, sums, is_ours=is_ours)
    archive.apply(path, folder, report)
    if is_ours:
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    return Made(archive.name, sums, is_official=archive.md5 is not None)


def _is_at(archive: Archive, origin: Origin) -> bool:
    return origin.folder is not None and (origin.folder / archive.name).is_file()


def _find(archive: Archive, folder: Path, origin: Origin, report: Report) -> Path:
    """Return the file of an archive, downloaded if need be."""
    if origin.folder is not None:
        path = origin.folder / archive.name
        if not path.is_file():
            raise DatasetError(
                f"{origin.folder}: got no {archive.name}, expected the archive under its official name: "
                f"{_remedy(archive)}"
            )
        return path
    url = f"{origin.url.rstrip('/')}/{archive.name}" if origin.url else archive.url
    if url is None:
        raise DatasetError(
            f"{archive.name}: got no place to take it from, expected one, as its provider wants a login: "
            f"{_remedy(archive)}, and give its folder with --from"
        )
    path = folder / DOWNLOADS / archive.name
    if not path.is_file():
        download(url, path, report)
    return path


def _remedy(archive: Archive) -> str:
    return f"download it from {archive.url or LOGIN}"


def _wrong_sum(archive: Archive, path: Path, sums: Sums, *, is_ours: bool) -> DatasetError:
    if is_ours:
        path.unlink()
    remedy = "it was removed, run the command again" if is_ours else "download it again"
    return DatasetError(
        f"{path}: got the MD5 sum {sums.md5}, expected {archive.md5} of the official {archive.name}: {remedy}"
    )
