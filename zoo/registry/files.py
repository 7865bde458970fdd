"""Files of a bundle that registries hold: weights, portable artifacts and measurements, but no code."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CONFIG, WEIGHTS, CARD, MANIFEST = "config.json", "model.safetensors", "README.md", "manifest.json"
REQUIRED = (CONFIG, WEIGHTS, MANIFEST)
TEXT_PATTERNS = (CONFIG, CARD, MANIFEST, "preprocessor_config.json")
MODEL_PATTERNS = (WEIGHTS, *TEXT_PATTERNS)
ARTIFACT_PATTERNS = ("*.onnx", "preview.png", "benchmark/*.json", "benchmark/*.md", "benchmark/*.png")
"""Patterns for the Hub's client, whose `*` also matches slashes, which `IGNORED_PATTERNS` excludes."""

IGNORED_PATTERNS = (".*", "*/*.onnx", "*/*/*")

EXPORTED = re.compile(r"[A-Za-z0-9_][\w.-]*\.onnx", re.ASCII)
MEASURED = re.compile(r"preview\.png|benchmark/[A-Za-z0-9_][\w.-]*\.(json|md|png)", re.ASCII)


def patterns(*, artifacts: bool) -> list[str]:
    """Return the patterns of the files to pull, with or without exported files and measurements."""
    return [*MODEL_PATTERNS, *(ARTIFACT_PATTERNS if artifacts else ())]


def is_ours(name: str) -> bool:
    """Return whether registries hold files of this path; other files are never read or written."""
    return name in MODEL_PATTERNS or bool(EXPORTED.fullmatch(name) or MEASURED.fullmatch(name))


def is_artifact(name: str) -> bool:
    """Return whether a bundle is complete without this file."""
    return name not in MODEL_PATTERNS


def our_files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder that registries hold, by their path inside it, sorted."""
    found = [*folder.iterdir(), *(folder / "benchmark").glob("*")]
    files = {path.relative_to(folder).as_posix(): path for path in found if path.is_file()}
    return {name: path for name, path in sorted(files.items()) if is_ours(name)}


def is_complete(folder: Path) -> bool:
    """Return whether a folder is a complete bundle, by names and sizes of its files."""
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        listed = json.loads((folder / MANIFEST).read_bytes())["files"]
        sizes = {name: entry["bytes"] for name, entry in listed.items() if name in MODEL_PATTERNS}
        return (
            {"deployable", "method", "names"} <= config.keys()
            and {CONFIG, WEIGHTS} <= sizes.keys()
            and all((folder / name).stat().st_size == size for name, size in sizes.items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
