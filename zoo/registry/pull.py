"""Pulling of bundles by name, with checks, from registries and tar files."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from zoo.catalog import resolve_alias
from zoo.errors import RegistryError
from zoo.registry import folder as folder_registry
from zoo.registry import hub
from zoo.registry.archive import read_archive
from zoo.registry.checks import BrokenBundleError, check_bundle
from zoo.registry.explain import explained, not_cached
from zoo.registry.files import TEXT_PATTERNS, WEIGHTS, our_files, patterns
from zoo.registry.lock import LOCK_NAME, LockedBundle, check_locked, locked_bundle, update_lock
from zoo.registry.names import Name, parse_name

if TYPE_CHECKING:
    from collections.abc import Callable

    Say = Callable[[str], None]

WORKING_COPIES = Path("pulled")


class Pulled(NamedTuple):
    """A bundle that was pulled and checked."""

    name: str
    """Name as given, or as in a tar file."""
    folder: Path
    """Folder in the cache or the registry, which must not be written to."""
    locked: LockedBundle


def pull(
    name: str,
    *,
    offline: bool = False,
    locked: bool = False,
    lock: Path | None = None,
    artifacts: bool = True,
    say: Say = lambda _: None,
) -> Path:
    """Return the folder of a bundle, pulled if necessary and checked; it must not be written to.

    Args:
        name: `owner/name[@revision]`, `file:DIR/name[@revision]` or an alias of the catalog.
        offline: whether to use only the cache.
        locked: whether the bundle must match the lock exactly.
        lock: lock file to update, or to compare with if `locked`; None for no lock file, or for `zoo.lock` in
            the current folder if `locked`.
        artifacts: whether to also pull exported files and measurements.
        say: called with messages for the user.

    Raises:
        RegistryError: an unknown name, no network, no permission, no space, or a mismatch with the lock.
        BundleError: a bundle that fails the checks.
    """
    return fetch(name, offline=offline, locked=locked, lock=lock, artifacts=artifacts, say=say).folder


def fetch(
    name: str,
    *,
    offline: bool = False,
    locked: bool = False,
    lock: Path | None = None,
    artifacts: bool = True,
    say: Say = lambda _: None,
) -> Pulled:
    """Return a pulled and checked bundle with its revision; the arguments are those of `pull`."""
    parsed = parse_name(resolve_alias(name))
    if locked:
        lock = lock or Path(LOCK_NAME)
        parsed = parsed._replace(revision=locked_bundle(lock, name).revision)
    pulled = Pulled(name, *_checked(parsed, offline=offline, artifacts=artifacts, say=say))
    if locked and lock is not None:
        check_locked(lock, name, pulled.locked)
    elif lock is not None:
        update_lock(lock, name, pulled.locked)
    return pulled


def look(name: str, *, offline: bool = False) -> tuple[Path, str]:
    """Return a folder with card, configuration and manifest of a bundle, but no weights, and its revision.

    Args:
        name: `owner/name[@revision]`, `file:DIR/name[@revision]` or an alias of the catalog.
        offline: whether to use only the cache.

    Raises:
        RegistryError: an unknown name, no network, or no permission.
    """
    parsed = parse_name(resolve_alias(name))
    if parsed.registry == "file":
        with explained(parsed):
            return folder_registry.find(parsed)
    return hub.download(parsed, TEXT_PATTERNS, offline=offline)


def unpack(
    archive: Path, out: Path | None = None, *, locked: bool = False, lock: Path | None = None
) -> Pulled:
    """Return the bundle of a tar file, unpacked and checked.

    Args:
        archive: tar file from `write_archive`.
        out: folder of the bundle; None for one under `pulled/`.
        locked: whether the bundle must match the lock exactly.
        lock: lock file to update, or to compare with if `locked`; None for no lock file, or for `zoo.lock` in
            the current folder if `locked`.

    Raises:
        RegistryError: a missing file, a mismatch with the archive's lock or the local lock, or an existing
            folder.
        BundleError: a bundle that fails the checks.
    """
    if not archive.is_file():
        raise RegistryError(
            f"{archive} does not exist, expected a file written by zoo pull NAME --bundle {archive.name}"
        )
    temporary = _hidden(out or WORKING_COPIES / archive.name)
    try:
        with explained(Name("file", archive.name, archive.parent)):
            temporary.mkdir(parents=True)
            name, entry = read_archive(archive, temporary)
        files = check_bundle(temporary, artifacts=False)
        if any(files.get(file) != digest for file, digest in entry.files.items()):
            raise RegistryError(f"{archive} differs from its {LOCK_NAME}: copy it again")
        if locked:
            check_locked(lock or Path(LOCK_NAME), name, entry)
        folder = out or working_copy(name, entry.revision)
        _settle(temporary, folder, keep=out is None)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if lock is not None and not locked:
        update_lock(lock, name, entry)
    return Pulled(name, folder, entry)


def copy_to(pulled: Pulled, out: Path | None = None) -> Path:
    """Return a writable copy of a bundle, e.g. for export or benchmark.

    Args:
        pulled: bundle to copy.
        out: folder of the copy; None for one under `pulled/`, which is reused if it exists.

    Raises:
        RegistryError: the folder exists, or there is no space.
    """
    folder = out or working_copy(pulled.name, pulled.locked.revision)
    if out is None and folder.is_dir():
        return folder
    temporary = _hidden(folder)
    try:
        with explained(parse_name(resolve_alias(pulled.name))):
            temporary.mkdir(parents=True)
            for name, path in our_files(pulled.folder).items():
                (temporary / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(path, temporary / name)
        _settle(temporary, folder, keep=out is None)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def working_copy(name: str, revision: str) -> Path:
    """Return the folder of the writable copy of a bundle."""
    path = parse_name(resolve_alias(name)).path.replace("/", "--")
    return WORKING_COPIES / f"{path}-{revision[:12]}"


def _checked(name: Name, *, offline: bool, artifacts: bool, say: Say) -> tuple[Path, LockedBundle]:
    """Return the folder of a bundle and its hashes; broken files in the cache are downloaded again."""
    if name.registry == "file":
        with explained(name):
            folder, revision = folder_registry.find(name)
            return folder, LockedBundle(revision=revision, files=check_bundle(folder, artifacts=artifacts))
    for is_last in (offline, True):
        folder, revision = hub.download(name, patterns(artifacts=artifacts), offline=offline)
        if offline and not (folder / WEIGHTS).is_file():  # the cache has only the files of `look`
            raise RegistryError(not_cached(name))
        try:
            return folder, LockedBundle(revision=revision, files=check_bundle(folder, artifacts=artifacts))
        except BrokenBundleError as error:
            if offline:
                raise
            with suppress(OSError):
                hub.forget(folder, error.name)
            if is_last:
                raise
            say(f"{error.name} of {name} is broken ({error.fault}): pulling it again")
    raise AssertionError


def _hidden(folder: Path) -> Path:
    """Return the path of a new hidden folder beside a path, on the same disk."""
    place = folder.absolute()  # the current folder has no name
    return place.with_name(f".{place.name}.{uuid4().hex}")


def _settle(temporary: Path, folder: Path, *, keep: bool) -> None:
    """Rename a filled folder to its final name.

    Args:
        temporary: filled folder.
        folder: final path.
        keep: whether an existing folder is kept instead of being an error.

    Raises:
        RegistryError: the folder exists, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or folder.samefile(Path.cwd())):
        what = "the current folder" if folder.is_dir() else "a file"
        raise RegistryError(f"{folder} is {what}, expected a new folder: choose another")
    if folder.is_dir() and any(folder.iterdir()):
        if keep:
            return
        raise RegistryError(f"{folder} exists already, expected a new folder: choose another or remove it")
    temporary.replace(folder)
