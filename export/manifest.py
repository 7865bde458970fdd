"""`manifest.json`: the hash of every file of a bundle, and how every artifact was made and compared."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from zoo import __version__
from zoo.bundle import write_json
from zoo.errors import BundleError
from zoo.predictors.artifact import sha256

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MANIFEST_NAME = "manifest.json"


class FileEntry(BaseModel):
    """One file of the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    bytes: int


class Manifest(BaseModel):
    """The contents of `manifest.json`.

    Args:
        files: by path inside the bundle; all but this one and hidden ones.
        artifacts: by path inside the bundle: precision, input and output, versions, parity, engine facts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    files: dict[str, FileEntry] = {}
    artifacts: dict[str, dict[str, Any]] = {}


def read_manifest(bundle: Path) -> Manifest:
    """Return the manifest of a bundle, an empty one if there is none.

    Raises:
        BundleError: a file that is no manifest.
    """
    path = bundle / MANIFEST_NAME
    if not path.is_file():
        return Manifest()
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise BundleError(
            f"{path} is no manifest ({error.errors()[0]['msg']}): delete it and export again"
        ) from error


def update_manifest(bundle: Path, artifacts: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the manifest anew and return its path.

    Args:
        bundle: whose files are hashed.
        artifacts: entries to add or replace; those of other files that are still there are kept.
    """
    files = listed_files(bundle)
    known = {**read_manifest(bundle).artifacts, **{name: dict(entry) for name, entry in artifacts.items()}}
    manifest = Manifest(
        files={
            name: FileEntry(sha256=sha256(path), bytes=path.stat().st_size) for name, path in files.items()
        },
        artifacts={name: entry for name, entry in sorted(known.items()) if name in files},
    )
    write_json(bundle / MANIFEST_NAME, manifest.model_dump(mode="json"))
    return bundle / MANIFEST_NAME


def listed_files(bundle: Path) -> dict[str, Path]:
    """Return the files that a manifest lists, by their path inside the bundle."""
    return {
        path.relative_to(bundle).as_posix(): path for path in sorted(bundle.rglob("*")) if _is_listed(path)
    }


def versions() -> dict[str, str]:
    """Return the versions that decide what an artifact is."""
    return {
        "zoo": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "onnx": onnx.__version__,
        "onnxscript": metadata.version("onnxscript"),
        "onnxruntime": onnxruntime.__version__,
    }


def _is_listed(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name != MANIFEST_NAME
