"""Bundles in tar files, for machines without a network; equal bundles give identical files."""

from __future__ import annotations

import io
import shutil
import tarfile
from typing import TYPE_CHECKING, BinaryIO

from pydantic import ValidationError

from zoo.bundle.bundle import replacing
from zoo.errors import RegistryError
from zoo.registry.files import is_artifact, is_ours, our_files
from zoo.registry.lock import LOCK_NAME, Lock, LockedBundle

if TYPE_CHECKING:
    from pathlib import Path

MAX_LOCK_BYTES = 1_000_000


def write_archive(path: Path, name: str, locked: LockedBundle, folder: Path) -> None:
    """Write a bundle to a tar file, with its lock as the first member.

    Args:
        path: path of the tar file.
        name: name of the model.
        locked: revision and files of the model.
        folder: folder of the bundle.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(models={name: locked}).model_dump_json(indent=2).encode() + b"\n"
    with replacing(path) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, LOCK_NAME, io.BytesIO(lock), len(lock))
        # required files come last, so that a truncated archive lacks one
        for file in sorted(our_files(folder), key=lambda file: (not is_artifact(file), file)):
            if file in locked.files:
                with (folder / file).open("rb") as source:
                    _add(archive, file, source, (folder / file).stat().st_size)


def is_archive(path: Path) -> bool:
    """Return whether a file is a tar file from `write_archive`."""
    try:
        with tarfile.open(path, "r:") as archive:
            first = archive.next()
    except (OSError, tarfile.TarError):
        return False
    return first is not None and first.name == LOCK_NAME


def read_archive(path: Path, folder: Path) -> tuple[str, LockedBundle]:
    """Unpack a bundle to an empty folder and return its name and lock, which are not verified yet.

    Args:
        path: path of a tar file from `write_archive`.
        folder: existing, empty folder.

    Raises:
        RegistryError: the file is not from `write_archive`, or contains other files.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            return _unpack(archive, path, folder)
    except (tarfile.TarError, EOFError) as error:
        raise RegistryError(f"{path} is not a complete tar file ({error}): copy it again") from error


def _add(archive: tarfile.TarFile, name: str, source: BinaryIO, size: int) -> None:
    member = tarfile.TarInfo(name)  # user 0, year 1970, mode 0644
    member.size = size
    archive.addfile(member, source)


def _unpack(archive: tarfile.TarFile, path: Path, folder: Path) -> tuple[str, LockedBundle]:
    first = archive.next()
    if first is None or first.name != LOCK_NAME or not first.isreg() or first.size > MAX_LOCK_BYTES:
        raise RegistryError(
            f"{path} has no {LOCK_NAME}, expected a file written by zoo pull NAME --bundle {path.name}"
        )
    name, locked = _read_lock(_contents(archive, first).read(), path)
    while (member := archive.next()) is not None:
        # such names are safe: no links, no folder except benchmark/, no way out of the target
        if member.issparse():  # a few bytes may stand for any size; write_archive writes no such file
            raise RegistryError(
                f"{path}: {member.name} is a sparse file, expected a plain one: copy it again"
            )
        if not (member.isreg() and is_ours(member.name) and member.name in locked.files):
            raise RegistryError(f"{path} contains {member.name!r}, expected only files in its {LOCK_NAME}")
        target = folder / member.name
        target.parent.mkdir(exist_ok=True)
        try:
            with target.open("xb") as unpacked:
                shutil.copyfileobj(_contents(archive, member), unpacked)
        except FileExistsError:
            raise RegistryError(f"{path} contains {member.name} twice, expected it once") from None
    for file in locked.files:
        if not is_artifact(file) and not (folder / file).exists():
            raise RegistryError(f"{path} is incomplete, {file} is missing: copy it again")
    return name, locked


def _contents(archive: tarfile.TarFile, member: tarfile.TarInfo) -> BinaryIO:
    file = archive.extractfile(member)
    assert file is not None
    return file  # type: ignore[return-value]


def _read_lock(text: bytes, path: Path) -> tuple[str, LockedBundle]:
    try:
        ((name, locked),) = Lock.model_validate_json(text).models.items()
    except (ValidationError, ValueError) as error:
        raise RegistryError(
            f"{path}: {LOCK_NAME} does not name one model: pull it again with --bundle"
        ) from error
    return name, locked
