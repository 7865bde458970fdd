"""Registry in a plain folder, for a shared disk or a site without a network.

    DIR/NAME/REVISION/      bundle, named by the hash of its manifest, so that no push can change it
    DIR/NAME/latest         file with the revision that was pushed last
    DIR/NAME/tags/TAG       file with a revision

Revisions are published atomically, by a rename; a push that is killed leaves a hidden folder that is never
read.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING
from uuid import uuid4

from zoo.errors import RegistryError
from zoo.registry.files import MANIFEST, our_files
from zoo.registry.names import PART

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zoo.registry.names import Name

LATEST = "latest"
TAGS = "tags"
MOVING = ("latest", "main")
"""Words that promise the revision that was pushed last."""
INCOMING = ".incoming-"
ABANDONED_SECONDS = 24 * 3600
REVISION = re.compile(r"[0-9a-f]{40}")
SHORT_REVISION = re.compile(r"[0-9a-f]{7,40}")


def listed(root: Path) -> tuple[str, ...]:
    """Return the names of the models in a folder registry, sorted; empty if the folder does not exist."""
    return tuple(sorted(path.parent.name for path in root.glob(f"*/{LATEST}")))


def find(name: Name) -> tuple[Path, str]:
    """Return the folder and the revision of a bundle.

    Raises:
        RegistryError: the registry, name or revision does not exist.
    """
    root = _root(name)
    if not root.is_dir():
        raise RegistryError(
            f"{root} does not exist, expected a registry: zoo push MODEL {name.model} makes one"
        )
    folder = root / name.path
    known = listed(root)
    if name.path not in known:
        nearest = get_close_matches(name.path, known, cutoff=0) or ["nothing"]
        raise RegistryError(f"{root} has no model {name.path}; nearest: {', '.join(nearest)}")
    revision = _resolve(folder, name)
    return folder / revision, revision


@contextmanager
def incoming(name: Name) -> Iterator[Path]:
    """Yield an empty folder in the registry to fill, which is removed unless `keep` publishes it."""
    folder = _root(name) / name.path
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"{INCOMING}*"):
        with suppress(FileNotFoundError):  # another process has finished its push
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
    path = folder / f"{INCOMING}{uuid4().hex}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def keep(name: Name, bundle: Path, tag: str | None = None) -> str:
    """Publish a filled folder as the newest revision of a model and return the revision.

    Args:
        name: name of the model.
        bundle: folder from `incoming`, filled and checked.
        tag: tag of the revision.

    Raises:
        RegistryError: the tag belongs to another revision.
    """
    folder = _root(name) / name.path
    revision = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()[:40]
    if tag is not None and (folder / TAGS / tag).is_file():
        _check_same(folder, tag, revision)  # before anything is published
    _flush(bundle)
    if not (folder / revision).is_dir():
        try:
            bundle.rename(folder / revision)
        except OSError:  # another process has pushed the same revision
            if not (folder / revision).is_dir():
                raise
    if tag is not None:
        _tag(folder, tag, revision)
    _write_pointer(folder / LATEST, revision)
    return revision


def check_tag(name: Name, tag: str) -> None:
    """Raise unless a tag is valid.

    Raises:
        RegistryError: an invalid tag.
    """
    if not PART.fullmatch(tag) or SHORT_REVISION.fullmatch(tag):
        raise RegistryError(f"{tag!r} cannot be a tag of {name.model}, expected a word such as v1")
    if tag.lower() in MOVING:
        raise RegistryError(
            f"{tag!r} cannot be a tag, which never moves, expected a word such as v1: {name.model} without "
            "a tag is the revision that was pushed last"
        )


def _root(name: Name) -> Path:
    assert name.root is not None
    return name.root


def _resolve(folder: Path, name: Name) -> str:
    """Return the revision of a tag or of a prefix of a revision; without either, the latest."""
    wanted = name.revision
    revisions = sorted(path.name for path in folder.iterdir() if REVISION.fullmatch(path.name))
    if wanted is None:
        found = [_read_pointer(folder / LATEST)]
    elif PART.fullmatch(wanted) and (folder / TAGS / wanted).is_file():
        found = [_read_pointer(folder / TAGS / wanted)]
    else:
        is_revision = SHORT_REVISION.fullmatch(wanted)
        found = [revision for revision in revisions if is_revision and revision.startswith(wanted)]
    if len(found) == 1 and found[0] in revisions:
        return found[0]
    tags = sorted(path.name for path in (folder / TAGS).glob("[!.]*"))
    there = ", ".join([*tags, *(revision[:12] for revision in revisions)]) or "none"
    raise RegistryError(f"{name.model} has no revision {wanted or LATEST}, expected one of: {there}")


def _tag(folder: Path, tag: str, revision: str) -> None:
    path = folder / TAGS / tag
    path.parent.mkdir(exist_ok=True)
    temporary = _write_temporary(path, revision)
    try:
        os.link(temporary, path)  # unlike a rename, it never replaces a tag
    except FileExistsError:
        _check_same(folder, tag, revision)
    finally:
        temporary.unlink()


def _check_same(folder: Path, tag: str, revision: str) -> None:
    """Raise if an existing tag names another revision."""
    if (other := _read_pointer(folder / TAGS / tag)) != revision:
        raise RegistryError(f"tag {tag} already names {other[:12]}, expected a new one: choose another")


def _read_pointer(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()


def _write_pointer(path: Path, revision: str) -> None:
    _write_temporary(path, revision).replace(path)


def _write_temporary(path: Path, revision: str) -> Path:
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    with temporary.open("w", encoding="ascii") as file:
        file.write(f"{revision}\n")
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _flush(bundle: Path) -> None:
    """Flush the files to disk: after a power failure, a revision must not be without its contents."""
    for path in our_files(bundle).values():
        with path.open("r+b") as file:
            os.fsync(file.fileno())
