"""Check of every file of a source before training, so that a bad file does not end the run hours later."""

from __future__ import annotations

import logging
from shlex import quote
from typing import TYPE_CHECKING

from zoo.data.files import FileSource
from zoo.data.folder import FolderSource
from zoo.data.inspect.findings import OF_LISTING, Finding, faults, message
from zoo.data.inspect.inspection import inspect_source
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from zoo.data.source import Source, Split

log = logging.getLogger(__name__)

OTHER_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
"""Splits by the usual names of their folders, in lower case."""
SPLITS: tuple[Split, ...] = ("train", "val", "unlabeled")
HOW = ", or choose some of train with zoo data split {} --val 1/5"


def check_source(source: Source, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Inspect every image and mask as `zoo data check` does: raise its first fault, log its warnings by kind.

    Args:
        source: source to check; one that draws its images has nothing to inspect.
        on_progress: called with the number of ids read and their total.

    Raises:
        DatasetError: an empty train or val split, or a fault.
    """
    _say_listing(source)
    _check_not_empty(source, "train")
    _check_not_empty(source, "val")
    if isinstance(source, FileSource):
        _log(_warnings(source, on_progress), source.spec)


def _warnings(source: FileSource, on_progress: Callable[[int, int], None] | None) -> Sequence[Finding]:
    """Return the findings of an inspection, or of the last one if no file changed; all are warnings.

    Raises:
        DatasetError: a fault.
    """
    if (known := source.memo["warnings"]) is not None:
        return [Finding(kind, tuple(files), detail) for kind, files, detail in known]
    inspection = inspect_source(source, on_progress)
    for finding in faults(inspection.findings):
        has_proposal = inspection.meaning.proposal is not None
        text = message(finding, source.spec, root=inspection.root, has_proposal=has_proposal)
        raise DatasetError(text)
    source.memo["warnings"] = [(one.kind, one.files, one.detail) for one in inspection.findings]
    return inspection.findings


def _log(findings: Sequence[Finding], spec: str) -> None:
    """Log findings, a line for each kind."""
    by_kind: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.kind not in OF_LISTING:
            by_kind.setdefault(finding.kind, []).append(finding)
    for first, *others in by_kind.values():
        log.warning(message(first, spec, others=len(others)))


def _say_listing(source: Source) -> None:
    """Log what the listing of a folder found, and what it skipped, a line for each folder."""
    if not isinstance(source, FolderSource):
        return
    found = ", ".join(f"{len(source.ids(split)):,} {split}" for split in SPLITS)
    tool = "" if source.tool is None else f", recognized as {source.tool}"
    log.info("%s: found %s images%s", source.spec, found, tool)
    for folder, words in source.skipped.items():
        log.warning("%s: skipped %s", folder, words)


def _check_not_empty(source: Source, split: Split) -> None:
    if not source.ids(split):
        if isinstance(source, FolderSource) and (near := _named_otherwise(source, split)) is not None:
            raise DatasetError(
                f"{source.spec}: got no folder {getattr(source.data, split)} but {near.name}, expected "
                f'{split}: rename it, or write {split} = "{near.name}" into {source.toml}'
            )
        raise DatasetError(
            f"{source.spec}: got no images in split {split}, expected at least one image with a mask: "
            f"add some to {split}/images and {split}/masks"
            f"{HOW.format(quote(source.spec)) if split == 'val' else ''}"
        )


def _named_otherwise(source: FolderSource, split: Split) -> Path | None:
    """Return the folder of a split that has none, if it is called `valid` or `Train`, for example."""
    if (source.root / getattr(source.data, split)).is_dir():
        return None
    folders = (path for path in sorted(source.root.iterdir()) if (path / "images").is_dir())
    return next((path for path in folders if OTHER_NAMES.get(path.name.lower()) == split), None)
