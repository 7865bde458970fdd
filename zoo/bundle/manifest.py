"""`manifest.json` of a bundle: the hash of every file, and export and parity of every artifact."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from zoo.errors import BundleError
from zoo.frozen import Frozen, first_fault

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST_NAME = "manifest.json"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FileEntry(Frozen):
    """A file of the bundle."""

    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """Return the entry of a file."""
        return cls(sha256=sha256(path), bytes=path.stat().st_size)


class Manifest(Frozen):
    """Contents of `manifest.json`.

    Args:
        files: entries of all files except this one and hidden ones, by path inside the bundle.
        artifacts: precision, input and output, versions, parity and engine facts of each artifact, by path.
    """

    format: int = 1
    files: dict[str, FileEntry] = Field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = Field(default_factory=dict)


def read_manifest(bundle: Path) -> Manifest:
    """Return the manifest of a bundle; empty if there is none.

    Raises:
        BundleError: the file is not a manifest.
    """
    path = bundle / MANIFEST_NAME
    if not path.is_file():
        return Manifest()
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise BundleError(
            f"{path} is not a manifest ({first_fault(error)}): delete it and export again"
        ) from error


def listed_files(bundle: Path) -> dict[str, Path]:
    """Return the files that a manifest must list, by path inside the bundle."""
    return {
        path.relative_to(bundle).as_posix(): path for path in sorted(bundle.rglob("*")) if _is_listed(path)
    }


def _is_listed(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name != MANIFEST_NAME
