"""Bundles in the Hub's cache, which can be used without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from huggingface_hub import CacheNotFound, constants, scan_cache_dir

from zoo.registry.files import is_complete

if TYPE_CHECKING:
    from pathlib import Path


class LocalBundle(NamedTuple):
    """A bundle from the Hub in the cache under `HF_HOME`."""

    name: str
    """`owner/name`."""
    revision: str
    """Its commit."""
    path: Path
    bytes: int


def cached() -> tuple[LocalBundle, ...]:
    """Return the complete bundles in the cache, sorted by name, the revision that was pulled last first.

    The times of the files do not tell, as revisions share the files that are equal.
    """
    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return ()
    found = [
        (
            -revision.snapshot_path.stat().st_mtime,
            LocalBundle(repo.repo_id, revision.commit_hash, revision.snapshot_path, revision.size_on_disk),
        )
        for repo in repositories
        if repo.repo_type == "model"
        for revision in repo.revisions
        if is_complete(revision.snapshot_path)
    ]
    found.sort(key=lambda entry: (entry[1].name, entry[0], entry[1].revision))
    return tuple(bundle for _, bundle in found)
