"""The manifest of an export: every file hashed, and the versions that made the artifacts."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import torch

from zoo import __version__
from zoo.bundle.bundle import write_json
from zoo.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest, listed_files, read_manifest
from zoo.export.parity import Parity
from zoo.frozen import Frozen
from zoo.predictors.artifact import Precision

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def update_manifest(bundle: Path, artifacts: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the manifest anew and return its path.

    Args:
        bundle: whose files are hashed.
        artifacts: entries to add or replace; those of other files that are still there are kept.
    """
    files = listed_files(bundle)
    known = {**read_manifest(bundle).artifacts, **{name: dict(entry) for name, entry in artifacts.items()}}
    manifest = Manifest(
        files={name: FileEntry.of(path) for name, path in files.items()},
        artifacts={name: entry for name, entry in sorted(known.items()) if name in files},
    )
    write_json(bundle / MANIFEST_NAME, manifest.model_dump(mode="json"))
    return bundle / MANIFEST_NAME


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


class Artifact(Frozen):
    """One exported file.

    Args:
        name: path inside the bundle.
        precision: of the network.
        bytes: its size.
        parity: None if it could not be run here.
        remark: why there is no parity.
        facts: what else the manifest says of it.
    """

    name: str
    precision: Precision
    bytes: int
    parity: Parity | None
    remark: str = ""
    facts: dict[str, Any]

    def entry(self, versions: dict[str, str]) -> dict[str, Any]:
        """Return what the manifest says of it."""
        parity = None
        if self.parity is not None:
            facts = {"agreement": self.parity.agreement, "passed": self.parity.passed}
            parity = {**self.parity.model_dump(mode="json"), **facts}
        return {
            "precision": self.precision,
            "versions": versions,
            "parity": parity,
            "remark": self.remark,
            **self.facts,
        }


class ExportReport(Frozen):
    """What an export made.

    Args:
        bundle: the folder that holds it.
        artifacts: in the order they were made.
        files: names of the files written, the manifest among them.
    """

    bundle: str
    artifacts: tuple[Artifact, ...]
    files: tuple[str, ...]
