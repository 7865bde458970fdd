"""One-line error messages, with remedies, for failures of the Hub's client."""

from __future__ import annotations

import os
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING

import httpx2
from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from zoo.catalog import entries
from zoo.errors import RegistryError
from zoo.faults import is_full_disk
from zoo.registry.local import cached
from zoo.registry.lock import NO_RIGHT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoo.registry.names import Name

BROKEN_SIZE = "Consistency check failed"
REASON_LENGTH = 200


@contextmanager
def explained(name: Name) -> Iterator[None]:
    """Turn errors of the Hub's client and the disk into a `RegistryError`.

    Args:
        name: name of the model that is pulled or pushed.
    """
    try:
        yield
    except (OSError, httpx2.HTTPError, HFValidationError, ValueError, RuntimeError) as error:
        raise RegistryError(_explain(error, name)) from error


def _explain(error: BaseException, name: Name) -> str:
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    for each in reversed(chain):  # the first cause is the most specific
        for kinds, explain in EXPLAIN:
            if isinstance(each, kinds) and (text := explain(each, name)):
                return text
    return f"{name}: {_reason(error)}: try again, with --debug for all of it"


def _gated(_: BaseException, name: Name) -> str:
    return (
        f"{name.path} is gated and may not be read with {_token()}: accept its terms on its page, then log "
        f"in as that account with hf auth login or HF_TOKEN"
    )


def _unknown(_: BaseException, name: Name) -> str:
    known = {bundle.name for bundle in cached()} | {entry.bundle or entry.alias for entry in entries()}
    nearest = get_close_matches(name.path, sorted(known))
    near = f"; nearest: {', '.join(nearest)}" if nearest else ""
    return (
        f"there is no model {name.path} on the Hub, or it is private and cannot be read with {_token()}"
        f"{near}: check the name, or log in with hf auth login or HF_TOKEN"
    )


def _gone(_: BaseException, name: Name) -> str:
    there = ", ".join(bundle.revision[:12] for bundle in cached() if bundle.name == name.path)
    kept = f"; the cache holds {there}" if there else ""
    return f"{name.path} has no revision {name.revision}{kept}: expected a tag, a branch or a commit of it"


def _headers(error: BaseException, name: Name) -> str:
    return (
        f"the answers for {name.path} lack the Hub's headers ({_reason(error)}): a proxy removes them; set "
        f"HF_ENDPOINT to one that keeps them, or carry the model with zoo pull --bundle"
    )


def _no_network(error: BaseException, name: Name) -> str:
    return (
        f"no network: {constants.ENDPOINT} cannot be reached for {name} ({_reason(error)}); the cache holds "
        f"{_cached()}: with --offline or HF_HUB_OFFLINE=1 these are used"
    )


def not_cached(name: Name) -> str:
    """Return the message for a model that was not pulled before."""
    return f"{name} is not in the cache, which holds {_cached()}: pull it once with a network"


def _offline(_: BaseException, name: Name) -> str:
    return not_cached(name)


def _interrupted(error: BaseException, name: Name) -> str:
    return f"the connection broke off at {name} ({_reason(error)}): pull again, finished files are kept"


def _refused(error: BaseException, name: Name) -> str:
    assert isinstance(error, HfHubHTTPError)
    status = error.response.status_code
    if status in (401, 403):
        return (
            f"the Hub refuses {name.path} to {_token()} ({_reason(error)}): log in with hf auth login or "
            f"HF_TOKEN, with a token that may read and, to push, write"
        )
    if status in (409, 412):
        return f"{name.path} was changed by someone else meanwhile ({_reason(error)}): push again"
    if status == 429 or status >= 500:
        return (
            f"the Hub answers {status} for {name.path}: try again later, or with --offline if it was pulled"
        )
    return ""


def _disk(error: BaseException, name: Name) -> str:
    assert isinstance(error, OSError)
    where = str(error.filename2 or error.filename or constants.HF_HUB_CACHE)
    other = "set HF_HOME to" if where.startswith(constants.HF_HUB_CACHE) else "name"
    if is_full_disk(error):
        return f"no space left for {name} in {where}: free some, or {other} a folder on another disk"
    if error.errno in NO_RIGHT and error.filename:
        return (
            f"{where} cannot be read or written for {name}: ask for the right to, or {other} another folder"
        )
    if BROKEN_SIZE in str(error):
        return f"a file of {name} came broken, not in the size that the Hub says: pull again"
    return ""


EXPLAIN: tuple[
    tuple[type[BaseException] | tuple[type[BaseException], ...], Callable[[BaseException, Name], str]], ...
] = (
    (GatedRepoError, _gated),
    (RepositoryNotFoundError, _unknown),
    (RevisionNotFoundError, _gone),
    (FileMetadataError, _headers),
    ((httpx2.ConnectError, httpx2.TimeoutException, httpx2.ProxyError), _no_network),
    (httpx2.TransportError, _interrupted),
    (HfHubHTTPError, _refused),
    ((OfflineModeIsEnabled, LocalEntryNotFoundError), _offline),
    (OSError, _disk),
)
"""Functions that explain errors of the client, from specific to general errors."""


def _token() -> str:
    if os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"):
        return "the token in HF_TOKEN"
    return "no token" if get_token() is None else "the token of hf auth login"


def _cached() -> str:
    return ", ".join(f"{bundle.name}@{bundle.revision[:12]}" for bundle in cached()) or "no model"


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:REASON_LENGTH] or type(error).__name__
