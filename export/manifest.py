"""Manifest of an export: hashes of all files, and versions of the software."""

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
from zoo.export.parity.compare import Parity
from zoo.frozen import Frozen
from zoo.predictors.artifact import Precision

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def update_manifest(bundle: Path, artifacts: Mapping[str, Mapping[str, Any]]) -> Path:
    """Update the manifest of a bundle and return its path.

    Args:
        bundle: bundle folder whose files are hashed.
        artifacts: entries to add or replace; those of other existing files are kept.
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
    """Return the versions of the software that artifacts depend on."""
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
        precision: precision of the network.
        bytes: file size.
        parity: comparison with the model; None if the file cannot run on this machine.
        remark: reason for a missing parity.
        facts: further facts for the manifest.
    """

    name: str
    precision: Precision
    bytes: int
    parity: Parity | None
    remark: str = ""
    facts: dict[str, Any]

    def entry(self, versions: dict[str, str]) -> dict[str, Any]:
        """Return the entry for the manifest."""
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
    """Result of an export.

    Args:
        bundle: folder of the bundle.
        artifacts: artifacts in the order of their export.
        files: names of the written files, including the manifest.
    """

    bundle: str
    artifacts: tuple[Artifact, ...]
    files: tuple[str, ...]
