"""Registry on the Hugging Face Hub, or a mirror at `HF_ENDPOINT`, through its official client."""

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
    """Return the folder of a bundle in the cache, and its commit; only missing files are downloaded.

    Args:
        name: name of the model.
        wanted: patterns of its files.
        offline: whether to use only the cache.

    Raises:
        RegistryError: the model cannot be downloaded; the message gives reason and remedy.
    """
    offline = offline or constants.is_offline_mode()
    with explained(name):
        if not offline and not COMMIT.fullmatch(name.revision or ""):
            # without a network, the client would silently use the cache, however old
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
    """Remove a file of a bundle from the cache, so that the next pull downloads it."""
    pointer = folder / file
    pointer.resolve().unlink(missing_ok=True)
    pointer.unlink(missing_ok=True)


def upload(name: Name, bundle: Path, *, tag: str | None, private: bool, create_pr: bool) -> tuple[str, str]:
    """Replace the files of a model by those of a bundle, in one commit, and return the commit and its URL.

    Args:
        name: name of the model, which is created if it does not exist.
        bundle: folder with exactly the files to upload.
        tag: tag of the commit.
        private: whether the model is private.
        create_pr: whether to open a pull request instead of committing.

    Raises:
        RegistryError: the model cannot be pushed; the message gives reason and remedy.
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
