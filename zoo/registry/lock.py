"""`zoo.lock`: which revision of every model was pulled, and the SHA-256 of each of its files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from filelock import FileLock
from pydantic import Field, ValidationError

from zoo.bundle.bundle import write_json
from zoo.errors import RegistryError
from zoo.frozen import Frozen, first_fault

if TYPE_CHECKING:
    from pathlib import Path

LOCK_NAME = "zoo.lock"


class LockedBundle(Frozen):
    """One model of a lock.

    Args:
        revision: the commit on the Hub, or the revision in a folder.
        files: SHA-256 by path; also of files that were left out.
    """

    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    files: dict[str, str]


class Lock(Frozen):
    """The contents of `zoo.lock`; models by their names as they were given."""

    format: Literal[1] = 1
    models: dict[str, LockedBundle] = Field(default_factory=dict)


def read_lock(path: Path) -> Lock:
    """Return a lock, an empty one if there is no such file.

    Raises:
        RegistryError: a file that is no lock.
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
    """Return what a lock says of a model.

    Raises:
        RegistryError: nothing.
    """
    models = read_lock(path).models
    if name not in models:
        known = ", ".join(models) or "nothing"
        raise RegistryError(
            f"{path} holds {known}, expected {name}: zoo pull {name} without --locked adds it"
        )
    return models[name]


def update_lock(path: Path, name: str, bundle: LockedBundle) -> None:
    """Add or replace a model, also while other processes add theirs; names and files are sorted."""
    with FileLock(path.with_name(f".{path.name}.guard")):
        models = {**read_lock(path).models, name: bundle}
        lock = Lock(models={name: _sorted(models[name]) for name in sorted(models)})
        write_json(path, lock.model_dump(mode="json"))


def check_locked(path: Path, name: str, bundle: LockedBundle) -> None:
    """Check that a model is what a lock says.

    Raises:
        RegistryError: the first thing that is not.
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
