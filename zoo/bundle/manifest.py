"""`manifest.json` of a bundle: the hash of every file, and how every artifact was made and compared."""

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
    """One file of the bundle."""

    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """Return the entry of a file as it is now."""
        return cls(sha256=sha256(path), bytes=path.stat().st_size)


class Manifest(Frozen):
    """The contents of `manifest.json`.

    Args:
        files: by path inside the bundle; all but this one and hidden ones.
        artifacts: by path inside the bundle: precision, input and output, versions, parity, engine facts.
    """

    format: int = 1
    files: dict[str, FileEntry] = Field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = Field(default_factory=dict)


def read_manifest(bundle: Path) -> Manifest:
    """Return the manifest of a bundle, an empty one if there is none.

    Raises:
        BundleError: a file that is no manifest.
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
    """Return the files that a manifest lists, by their path inside the bundle."""
    return {
        path.relative_to(bundle).as_posix(): path for path in sorted(bundle.rglob("*")) if _is_listed(path)
    }


def _is_listed(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name != MANIFEST_NAME
