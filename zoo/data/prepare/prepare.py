"""Preparation of a published data set: each archive is found or downloaded, checked and unpacked once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zoo.data.open import open_source
from zoo.data.prepare.download import download, sums_of
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.data.prepare.archives import Archive, DataSet
    from zoo.data.prepare.download import Checksums, Report

DOWNLOADS = "downloads"
LOGIN = "https://www.cityscapes-dataset.com/login/"


class UnpackedArchive(NamedTuple):
    """An archive that was unpacked."""

    name: str
    sums: Checksums
    is_official: bool
    """Whether the MD5 sum is the official one; False if none is known."""


class Origin(NamedTuple):
    """Location of the archives."""

    url: str | None = None
    """URL of a folder with the archives under their official names; None for their official addresses."""
    folder: Path | None = None
    """Local folder with the archives under their official names."""


def todo(data_set: DataSet, folder: Path, origin: Origin) -> list[Archive]:
    """Return the archives that a folder lacks; optional ones only if the origin has them."""
    wanted = [*data_set.archives, *(archive for archive in data_set.optional if _is_at(archive, origin))]
    return [archive for archive in wanted if not archive.is_applied(folder)]


def prepare(archives: list[Archive], folder: Path, origin: Origin, report: Report) -> list[UnpackedArchive]:
    """Unpack archives to a folder, downloading those that are missing.

    Args:
        archives: result of `todo`.
        folder: folder of the data set, created if it does not exist; archives are downloaded to its subfolder
            `downloads` and removed once unpacked.
        origin: location of the archives.
        report: called with a description, the amount done, and the total, None if unknown.

    Raises:
        DatasetError: an archive cannot be found, downloaded or unpacked, or is not the official one.
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
    """Return the numbers of training and validation images in a folder.

    Raises:
        DatasetError: files of the data set are missing.
    """
    source = open_source(f"{data_set.spec}:{folder}")
    return len(source.ids("train")), len(source.ids("val"))


def _make(archive: Archive, folder: Path, origin: Origin, report: Report) -> UnpackedArchive:
    """Unpack one archive, and remove it if it was downloaded."""
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
    return UnpackedArchive(archive.name, sums, is_official=archive.md5 is not None)


def _is_at(archive: Archive, origin: Origin) -> bool:
    return origin.folder is not None and (origin.folder / archive.name).is_file()


def _find(archive: Archive, folder: Path, origin: Origin, report: Report) -> Path:
    """Return the file of an archive, downloaded if necessary."""
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


def _wrong_sum(archive: Archive, path: Path, sums: Checksums, *, is_ours: bool) -> DatasetError:
    if is_ours:
        path.unlink()
    remedy = "it was removed, run the command again" if is_ours else "download it again"
    return DatasetError(
        f"{path}: got the MD5 sum {sums.md5}, expected {archive.md5} of the official {archive.name}: {remedy}"
    )
