"""The Hugging Face Hub, or whatever answers like it at `HF_ENDPOINT`, through its own client."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, snapshot_download

from zoo import __version__
from zoo.errors import RegistryError
from zoo.registry.explain import explained
from zoo.registry.files import IGNORED_PATTERNS, is_ours, our_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.registry.names import Name

LIBRARY = "semiseg-zoo"
COMMIT = re.compile(r"[0-9a-f]{40}")


def download(name: Name, wanted: Sequence[str], *, offline: bool) -> tuple[Path, str]:
    """Return the folder of a bundle in the cache, and its commit; only missing files are fetched.

    Args:
        name: of the model.
        wanted: patterns of its files.
        offline: whether the network is left alone.

    Raises:
        RegistryError: it cannot be had; says why and what to do.
    """
    offline = offline or constants.is_offline_mode()
    with explained(name):
        if not offline and not COMMIT.fullmatch(name.revision or ""):
            # without a network the client would take what is in the cache, however old, and not say so
            _api().model_info(name.path, revision=name.revision)
        folder = snapshot_download(
            name.path,
            revision=name.revision,
            allow_patterns=list(wanted),
            ignore_patterns=list(IGNORED_PATTERNS),
            local_files_only=offline,
            library_name=LIBRARY,
            library_version=__version__,
        )
    return Path(folder), Path(folder).name


def forget(folder: Path, file: str) -> None:
    """Remove a file of a bundle from the cache, so that the next pull fetches it."""
    pointer = folder / file
    pointer.resolve().unlink(missing_ok=True)
    pointer.unlink(missing_ok=True)


def upload(name: Name, bundle: Path, *, tag: str | None, private: bool, create_pr: bool) -> tuple[str, str]:
    """Make the files of a model those of a bundle, in one commit, and return the commit and its address.

    Args:
        name: of the model; created if there is none.
        bundle: a folder that holds what is uploaded and nothing else of ours.
        tag: a name for the commit.
        private: whether only its owner may see it.
        create_pr: whether the commit is proposed to the owner instead.

    Raises:
        RegistryError: it cannot be pushed; says why and what to do.
    """
    api = _api()
    with explained(name):
        api.create_repo(name.path, private=private or None, exist_ok=True)
        info = api.model_info(name.path)
        if private and not info.private:
            raise RegistryError(
                f"{name.path} exists and is public, expected none or a private one: rename it"
            )
        if tag is not None and tag in {ref.name for ref in api.list_repo_refs(name.path).tags}:
            raise RegistryError(f"{name.path} already has the tag {tag}, expected a new one")
        files = our_files(bundle)
        there = {sibling.rfilename for sibling in info.siblings or ()}
        stale = sorted(file for file in there - files.keys() if is_ours(file))
        commit = api.create_commit(
            name.path,
            [
                *(CommitOperationAdd(file, path) for file, path in files.items()),
                *(CommitOperationDelete(file) for file in stale),
            ],
            commit_message=f"Push with {LIBRARY} {__version__}",
            create_pr=create_pr,
            parent_commit=info.sha,
        )
        if tag is not None:
            api.create_tag(name.path, tag=tag, revision=commit.oid)
    return commit.oid, commit.pr_url or commit.commit_url


def _api() -> HfApi:
    return HfApi(library_name=LIBRARY, library_version=__version__)
