"""Identity of a run's data: classes, label map and files, by which a resumed run notices changes."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from zoo.bundle.bundle import write_json
from zoo.data.files import FileSource
from zoo.data.formats.per_label import Layers
from zoo.errors import BundleError, DatasetError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    from zoo.data.files import Pair
    from zoo.data.source import Source, Split

NAME = "data.json"
PART = 2**16
"""Bytes at the start and at the end of a file that are hashed; smaller files are hashed as a whole."""
MOST_SHOWN = 3
SPLITS: tuple[Split, ...] = ("train", "unlabeled", "val")


def write_identity(folder: Path, source: Source) -> None:
    """Write the identity of a run's data into its folder."""
    write_json(folder / NAME, identity(source))


def identity(source: Source) -> dict[str, Any]:
    """Return class names, a hash of the label map, and hashes of each id's files."""
    found = _of_names(source.classes.names)
    if isinstance(source, FileSource):
        if (known := source.memo["hashes"]) is None:
            ids = [id_ for split in SPLITS for id_ in source.ids(split)]
            with ThreadPoolExecutor() as pool:
                hashes = list(pool.map(lambda id_: _hashes(source.files[id_]), ids))
            known = source.memo["hashes"] = dict(zip(ids, hashes, strict=True))
        found["files"] = known
        found["reading"] = _digest(repr((source.labels, source.palettes)).encode())
    return found


def check_identity(folder: Path, source: Source, names: Iterable[str], used: Collection[str]) -> list[str]:
    """Return the ids of images that were added to the data of a run since it began.

    Args:
        folder: folder of the run; those of older versions record no files.
        source: the data as they are now.
        names: class names of the run.
        used: ids that the run trains on.

    Raises:
        DatasetError: changes of what the run uses, in one line.
    """
    recorded = _read(folder / NAME)
    before = _of_names(names) if recorded is None else recorded
    now = _of_names(source.classes.names) if recorded is None else identity(source)
    changes = list(_changes(before, now, source, used))
    if changes:
        raise DatasetError(
            f"{source.spec}: got data that changed since {folder} began ({'; '.join(changes)}), expected "
            f"them as they were: restore them, say where they are now with --data, or start another run"
        )
    return [id_ for id_ in now["files"] if before["files"] and id_ not in before["files"]]


def _read(path: Path) -> dict[str, Any] | None:
    """Return a recorded identity; None if there is none."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise BundleError(f"{path} cannot be read ({error}): train again") from error
    return found


def _of_names(names: Iterable[str]) -> dict[str, Any]:
    """Return an identity of which the class names alone are known."""
    return {"names": list(names), "reading": None, "files": {}}


def _changes(
    before: dict[str, Any], now: dict[str, Any], source: Source, used: Collection[str]
) -> Iterator[str]:
    if before["names"] != now["names"]:
        yield f"classes {', '.join(now['names'])}, were {', '.join(before['names'])}"
    if before["reading"] != now["reading"]:
        yield "another map from values or colors to labels in data.toml"
    known = {id_ for split in SPLITS for id_ in source.ids(split)}
    gone = [id_ for id_ in dict.fromkeys((*before["files"], *used)) if id_ not in known]
    if gone:
        yield in_words("missing image", gone)
    both = [(id_, hashes, now["files"][id_]) for id_, hashes in before["files"].items() if id_ in known]
    for index, what in enumerate(("changed image", "changed mask")):
        changed = [id_ for id_, first, second in both if first[index] != second[index]]
        if changed:
            yield in_words(what, changed)


def in_words(what: str, ids: list[str]) -> str:
    """Return the number of ids and the first of them."""
    more = ", ..." if len(ids) > MOST_SHOWN else ""
    return f"{len(ids)} {what}{'s' * (len(ids) > 1)}: {', '.join(ids[:MOST_SHOWN])}{more}"


def _hashes(pair: Pair) -> tuple[str, str | None]:
    """Return hashes of image and mask, of a drawn mask that of its regions."""
    if isinstance(pair.drawing, Layers):
        parts = [(_of_file(path), label) for path, label in pair.drawing.files]
        return _of_file(pair.image), _digest(repr(parts).encode())
    if pair.drawing is not None:
        return _of_file(pair.image), _digest(repr(pair.drawing[1:]).encode())
    return _of_file(pair.image), None if pair.mask is None else _of_file(pair.mask)


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(2 * PART + 1)
        if len(content) > 2 * PART:
            size = file.seek(-PART, os.SEEK_END) + PART
            content = content[:PART] + file.read(PART) + str(size).encode()
    return _digest(content)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
