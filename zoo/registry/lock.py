"""`zoo.lock`: the revision of each pulled model, and the SHA-256 of its files."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Annotated, Literal

from filelock import FileLock
from pydantic import Field, ValidationError

from zoo.bundle.bundle import write_json
from zoo.errors import RegistryError
from zoo.frozen import Frozen, first_fault

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

LOCK_NAME = "zoo.lock"

NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Error numbers of files and folders that may not be written."""


class LockedBundle(Frozen):
    """A model in a lock.

    Args:
        revision: commit on the Hub, or revision in a folder.
        files: SHA-256 of each file by path, including files that were not pulled.
    """

    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    files: dict[str, str]


class Lock(Frozen):
    """Contents of `zoo.lock`: models by name, as given by the user."""

    format: Literal[1] = 1
    models: dict[str, LockedBundle] = Field(default_factory=dict)


def read_lock(path: Path) -> Lock:
    """Return a lock; empty if the file does not exist.

    Raises:
        RegistryError: a file that is not a lock.
    """
    if not path.is_file():
        return Lock()
    try:
        return Lock.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RegistryError(
            f"{path} is not a lock file of this version ({first_fault(error)}): delete it and pull again"
        ) from error


def locked_bundle(path: Path, name: str) -> LockedBundle:
    """Return the entry of a model in a lock.

    Raises:
        RegistryError: the lock does not contain the model.
    """
    models = read_lock(path).models
    if name not in models:
        known = ", ".join(models) or "nothing"
        raise RegistryError(
            f"{path} holds {known}, expected {name}: zoo pull {name} without --locked adds it"
        )
    return models[name]


def update_lock(path: Path, name: str, bundle: LockedBundle) -> None:
    """Add or replace a model, safe with concurrent processes; names and files are sorted.

    In a folder that cannot be written to, the lock stays as it is, with a warning if that changes anything.
    """
    if read_lock(path).models.get(name) == bundle:
        return
    try:
        _write(path, name, bundle)
    except OSError as error:
        if error.errno not in NO_RIGHT:
            raise
        log.warning(
            "%s does not record %s: %s cannot be written (%s)", path, name, path.absolute(), error.strerror
        )


def _write(path: Path, name: str, bundle: LockedBundle) -> None:
    with FileLock(path.with_name(f".{path.name}.guard")):
        models = {**read_lock(path).models, name: bundle}
        lock = Lock(models={name: _sorted(models[name]) for name in sorted(models)})
        write_json(path, lock.model_dump(mode="json"))


def check_locked(path: Path, name: str, bundle: LockedBundle) -> None:
    """Raise unless a model matches its entry in a lock.

    Raises:
        RegistryError: revision or files differ; the first difference is reported.
    """
    expected = locked_bundle(path, name)
    if bundle.revision != expected.revision:
        raise RegistryError(
            f"{name} is at {bundle.revision}, {path} says {expected.revision}: pull without --locked"
        )
    names = sorted(bundle.files.keys() | expected.files.keys())
    for file in names:
        if bundle.files.get(file) != expected.files.get(file):
            raise RegistryError(
                f"{file} of {name} is not the one in {path}: the model was changed under the same revision; "
                f"ask its owner, or pull without --locked to accept it"
            )


def _sorted(bundle: LockedBundle) -> LockedBundle:
    return LockedBundle(revision=bundle.revision, files=dict(sorted(bundle.files.items())))
