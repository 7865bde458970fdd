"""Verification of a bundle against its manifest: file hashes and metadata of artifacts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import onnx

from zoo.bundle.bundle import WEIGHTS_NAME, load_config
from zoo.bundle.manifest import MANIFEST_NAME, listed_files, read_manifest, sha256
from zoo.errors import BundleError, ExportError
from zoo.export.graph.to_onnx import check_onnx
from zoo.predictors.artifact import read_engine_info
from zoo.registry.checks import artifact_faults, changes, read_metadata

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.bundle.manifest import Manifest


class Finding(NamedTuple):
    """Findings about one file."""

    name: str
    faults: tuple[str, ...]
    """Faults; empty if there are none."""


def verify_bundle(bundle: Path) -> tuple[Finding, ...]:
    """Return the findings about every file in the bundle or its manifest, in alphabetical order.

    Raises:
        BundleError: the folder is not a bundle, or has no manifest.
    """
    load_config(bundle)
    if not (bundle / MANIFEST_NAME).is_file():
        raise BundleError(f"{bundle} has no {MANIFEST_NAME}, expected one from an export: run zoo export")
    manifest = read_manifest(bundle)
    present = listed_files(bundle)
    names = sorted({*present, *manifest.files})
    return tuple(Finding(name, tuple(_faults(bundle, name, manifest, present.get(name)))) for name in names)


def _faults(bundle: Path, name: str, manifest: Manifest, path: Path | None) -> list[str]:
    entry = manifest.files.get(name)
    if path is None:
        return ["missing"]
    if entry is None:
        return ["not in the manifest: added after the export"]
    faults = changes(path, entry)
    if faults:
        return faults
    if path.suffix == ".onnx":
        faults += _onnx_faults(bundle, path)
    if path.suffix == ".engine":
        faults += _engine_faults(bundle, path)
    if path.suffix in (".onnx", ".engine") and name not in manifest.artifacts:
        faults.append("the manifest does not record its export")
    return faults


def _onnx_faults(bundle: Path, path: Path) -> list[str]:
    try:
        model = onnx.load(path, load_external_data=False)
        metadata = read_metadata(model, path)
        check_onnx(path, metadata)
    except (BundleError, ExportError) as error:
        return [str(error)]
    return artifact_faults(model, metadata, sha256(bundle / WEIGHTS_NAME))


def _engine_faults(bundle: Path, path: Path) -> list[str]:
    try:
        info = read_engine_info(path)
    except BundleError as error:
        return [str(error)]
    if info.onnx_sha256 not in {sha256(onnx_path) for onnx_path in bundle.glob("*.onnx")}:
        return ["built from an ONNX file that is not in the bundle"]
    return []
