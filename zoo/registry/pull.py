"""From a name to the folder of a bundle that may be used."""

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
    """As it was given, or as a tar file says."""
    folder: Path
    """That of the cache or of the registry: read it only."""
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
    """Return the folder of a bundle, fetched if it is not here yet, and checked; read it only.

    Args:
        name: `owner/name[@revision]`, `file:DIR/name[@revision]` or an alias of the catalog.
        offline: whether only what was pulled before is used.
        locked: whether it must be what the lock says, to the last byte.
        lock: file that the revision and the hashes are written to, or compared with; None for none, or for
            `zoo.lock` here if `locked`.
        artifacts: whether exported files and figures are fetched, too.
        say: told what is worth knowing.

    Raises:
        RegistryError: no such name, no network, no right, no space, not what the lock says.
        BundleError: what was found must not be used.
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
    """Return a bundle, fetched and checked; see `pull`."""
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
    """Return a folder with the card, configuration and manifest of a bundle, and its revision: no weights.

    Args:
        name: see `pull`.
        offline: likewise.

    Raises:
        RegistryError: no such name, no network, no right.
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
        archive: of `write_archive`.
        out: the folder to be; None for one under `pulled/`.
        locked: whether it must be what the lock says.
        lock: see `pull`.

    Raises:
        RegistryError: no such file, not what its lock or the one here says, or the folder is there already.
        BundleError: what was found must not be used.
    """
    if not archive.is_file():
        raise RegistryError(
            f"{archive} does not exist, expected a file written by zoo pull NAME --bundle {archive.name}"
        )
    temporary = _beside(out or WORKING_COPIES / archive.name)
    try:
        with explained(Name("file", archive.name, archive.parent)):
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
    """Return a copy of a bundle that may be written to: exported, benchmarked, changed.

    Args:
        pulled: the bundle.
        out: the folder to be; None for one under `pulled/`, which is kept as it is if it is there.

    Raises:
        RegistryError: the folder is there already, or there is no space.
    """
    folder = out or working_copy(pulled.name, pulled.locked.revision)
    if out is None and folder.is_dir():
        return folder
    temporary = _beside(folder)
    try:
        with explained(parse_name(resolve_alias(pulled.name))):
            for name, path in our_files(pulled.folder).items():
                (temporary / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(path, temporary / name)
        _settle(temporary, folder, keep=out is None)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def working_copy(name: str, revision: str) -> Path:
    """Return where a bundle is copied to that is to be written to."""
    path = parse_name(resolve_alias(name)).path.replace("/", "--")
    return WORKING_COPIES / f"{path}-{revision[:12]}"


def _checked(name: Name, *, offline: bool, artifacts: bool, say: Say) -> tuple[Path, LockedBundle]:
    """Return the folder of a bundle and its hashes; a file that broke in the cache is fetched once more."""
    if name.registry == "file":
        with explained(name):
            folder, revision = folder_registry.find(name)
            return folder, LockedBundle(revision=revision, files=check_bundle(folder, artifacts=artifacts))
    for is_last in (offline, True):
        folder, revision = hub.download(name, patterns(artifacts=artifacts), offline=offline)
        if offline and not (folder / WEIGHTS).is_file():  # all that is here is what `look` fetched
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


def _beside(folder: Path) -> Path:
    """Return a new hidden folder on the same disk as a folder to be."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")
    temporary.mkdir()
    return temporary


def _settle(temporary: Path, folder: Path, *, keep: bool) -> None:
    """Give a filled folder its name.

    Args:
        temporary: the filled folder.
        folder: its name to be.
        keep: whether one that is there already is as good.

    Raises:
        RegistryError: it is there already.
    """
    if folder.is_dir() and any(folder.iterdir()):
        if keep:
            return
        raise RegistryError(f"{folder} exists already, expected a new folder: choose another or remove it")
    temporary.replace(folder)
