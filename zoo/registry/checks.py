"""Checks of bundles before use: hashes of the manifest, weights without code, standard ONNX operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError
from safetensors import SafetensorError, safe_open

from zoo.bundle.bundle import load_config
from zoo.bundle.manifest import read_manifest, sha256
from zoo.errors import BundleError
from zoo.predictors.artifact import METADATA_KEY, parse_metadata
from zoo.registry.files import CONFIG, MANIFEST, REQUIRED, WEIGHTS, is_artifact, is_ours, our_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zoo.bundle.manifest import FileEntry, Manifest
    from zoo.predictors.artifact import ArtifactMetadata

ONNX_DOMAINS = {"", "ai.onnx"}


class BrokenBundleError(BundleError):
    """A bundle that must not be used.

    Args:
        folder: folder of the bundle.
        name: path of the faulty file inside the bundle.
        fault: fault of the file.
    """

    def __init__(self, folder: Path, name: str, fault: str) -> None:
        super().__init__(f"{folder / name}: {fault}: the bundle is not used, make or get it again")
        self.folder, self.name, self.fault = folder, name, fault


def check_bundle(folder: Path, *, artifacts: bool = True) -> dict[str, str]:
    """Check a bundle and return the SHA-256 of each of its files, by path.

    Args:
        folder: folder of the bundle; files that registries do not hold are ignored.
        artifacts: whether exported files must be present; existing ones are always checked.

    Raises:
        BrokenBundleError: the bundle has a fault; the first is reported.
    """
    present = our_files(folder)
    for name in REQUIRED:
        if name not in present:
            raise BrokenBundleError(folder, name, "missing, expected a bundle made by zoo push")
    manifest = _read_manifest(folder)
    for name, path in present.items():
        if name != MANIFEST and (fault := _listed_fault(name, path, manifest)):
            raise BrokenBundleError(folder, name, fault)
    wanted = {name: entry.sha256 for name, entry in sorted(manifest.files.items()) if is_ours(name)}
    for name in wanted.keys() - present.keys():
        if artifacts or not is_artifact(name):
            raise BrokenBundleError(folder, name, "missing, though the manifest lists it")
    _check_contents(folder, present)
    return {**wanted, MANIFEST: sha256(folder / MANIFEST)}


def changes(path: Path, entry: FileEntry) -> list[str]:
    """Return the differences between a file and its entry in the manifest; empty if there are none."""
    size = path.stat().st_size
    if size != entry.bytes:
        return [f"{size} bytes, {entry.bytes} in the manifest"]
    return [] if sha256(path) == entry.sha256 else ["its SHA-256 is not that of the manifest"]


def read_metadata(model: onnx.ModelProto, path: Path) -> ArtifactMetadata:
    """Return the metadata of an ONNX file.

    Args:
        model: parsed file.
        path: path of the file, for the message.

    Raises:
        BundleError: a file that was not exported by zoo.
    """
    return parse_metadata({entry.key: entry.value for entry in model.metadata_props}.get(METADATA_KEY), path)


def artifact_faults(model: onnx.ModelProto, metadata: ArtifactMetadata, weights_sha256: str) -> list[str]:
    """Return why an ONNX file cannot belong to weights of this hash; empty if it can."""
    faults = onnx_faults(model)
    if metadata.weights_sha256 != weights_sha256:
        faults.append(f"made from other weights than {WEIGHTS}")
    return faults


def onnx_faults(model: onnx.ModelProto) -> list[str]:
    """Return why the graph of an ONNX file cannot be trusted; empty if it can."""
    faults = []
    graphs = [*_graphs(model.graph), *(inner for function in model.functions for inner in _graphs(function))]
    if foreign := {node.domain for graph in graphs for node in graph.node} - ONNX_DOMAINS:
        faults.append(f"operators of {', '.join(sorted(foreign))}, expected standard ones alone")
    if any(map(_is_outside, (tensor for graph in graphs for tensor in _tensors(graph)))):
        faults.append("weights outside the file, expected them inside")
    return faults


def _read_manifest(folder: Path) -> Manifest:
    try:
        return read_manifest(folder)
    except BundleError as error:
        raise BrokenBundleError(folder, MANIFEST, "no manifest of this version") from error


def _listed_fault(name: str, path: Path, manifest: Manifest) -> str:
    entry = manifest.files.get(name)
    if entry is not None:
        return "".join(changes(path, entry))
    # benchmarks may be added on this machine; they are never executed
    return "" if name.startswith("benchmark/") else "not in the manifest"


def _check_contents(folder: Path, files: dict[str, Path]) -> None:
    try:
        load_config(folder)
    except BundleError as error:
        reason = str(error).removeprefix(f"{folder / CONFIG}: ").rpartition(": ")[0]  # without its remedy
        raise BrokenBundleError(folder, CONFIG, f"not of this version ({reason})") from error
    try:
        with safe_open(files[WEIGHTS], framework="np"):
            pass
    except SafetensorError as error:
        raise BrokenBundleError(folder, WEIGHTS, f"no safetensors file ({error})") from error
    digest = ""
    for name, path in files.items():
        if path.suffix == ".onnx":
            digest = digest or sha256(files[WEIGHTS])
            _check_onnx(folder, name, path, digest)


def _check_onnx(folder: Path, name: str, path: Path, weights_sha256: str) -> None:
    try:
        model = onnx.load(path, load_external_data=False)
        metadata = read_metadata(model, path)
    except (DecodeError, BundleError) as error:
        raise BrokenBundleError(folder, name, f"no ONNX file of zoo export ({error})") from error
    if faults := artifact_faults(model, metadata, weights_sha256):
        raise BrokenBundleError(folder, name, "; ".join(faults))


def _graphs(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """Yield a graph and the graphs of branches and loops in its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    yield from _graphs(inner)


def _tensors(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors of a graph, in its weights and its nodes."""
    if isinstance(graph, onnx.GraphProto):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _is_outside(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.external_data) or tensor.data_location == onnx.TensorProto.EXTERNAL
