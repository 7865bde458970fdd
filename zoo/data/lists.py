"""Lists of images in text files, one image a line, and their resolution to ids.

Entries have any form of the published lists: ids (U2PL, PseudoSeg), `image mask` pairs of paths (CPS,
UniMatch), or paths of images (U2PL for Cityscapes).
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from unicodedata import normalize

from zoo.data.files import IMAGE_SUFFIXES
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from zoo.data.source import Split

Files = TypeVar("Files")
"""Files of an image."""

NAME_ENDS = ("_leftImg8bit",)
"""Endings of image names in lists that are not part of the ids."""


class Line(NamedTuple):
    """One entry of a list of images."""

    where: str
    """File and line number, for messages."""
    id_: str
    words: tuple[str, ...]
    """Words of the line after the first."""


def read_list(path: Path, find: IdFinder) -> Iterator[Line]:
    """Yield the entries of a text file, one a line; lines that start with `#` are comments.

    Raises:
        DatasetError: a file that is not text or is empty, an entry that matches no id, or a duplicate id.
    """
    line_of: dict[str, int] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path}: got a file that is not text ({error}), expected one id a line: save it as UTF-8"
        ) from error
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        where = f"{path}:{number}"
        id_ = find.exact(line) or find(entry, where)
        if id_ in line_of:
            raise DatasetError(
                f"{where}: got {id_} again, expected each image once, it is on line {line_of[id_]}: "
                f"remove one"
            )
        line_of[id_] = number
        yield Line(where, id_, tuple(entry.split()[1:]))
    if not line_of:
        raise DatasetError(f"{path}: got a list without entries, expected one image a line: add some")


def read_ids(path: Path, find: IdFinder) -> set[str]:
    """Return the ids in a text file, one entry or `image mask` pair a line.

    Raises:
        DatasetError: as of `read_list`, or a line that names several images.
    """
    ids: set[str] = set()
    for where, id_, words in read_list(path, find):
        has_spaces = len(id_.split()) > 1  # then the words are parts of its name
        other = None if has_spaces else next((word for word in words if find.others(word, id_)), None)
        if other is not None:
            raise DatasetError(
                f"{where}: got {other} after {id_}, expected one image a line: put each on its own line"
            )
        ids.add(id_)
    return ids


class IdFinder:
    """Resolves entries of a list to ids.

    Args:
        wanted: ids that an entry may name, at least one.
        others: ids that an entry must not name.
        kind: kind of the wanted ids, for messages.
    """

    def __init__(self, wanted: Sequence[str], others: Collection[str], kind: str) -> None:
        self.kind = kind
        self.wanted = wanted
        self.ids = {_composed(id_): id_ for id_ in wanted}
        self.other_ids = frozenset(map(_composed, others))
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        for id_ in wanted:
            self.by_stem[PurePosixPath(_composed(id_)).name].append(id_)

    def __call__(self, entry: str, where: str) -> str:
        """Return the id that an entry names by full id, by path with or without suffix, or by name alone."""
        # the whole line first: names may contain spaces
        plain = _composed(entry)
        names = [name for text in (plain, plain.split()[0]) for name in _forms(text)]
        found = next(filter(None, map(self._by_id, names)), [])
        if not found and self.other_ids.isdisjoint(names):
            found = next(filter(None, map(self._by_stem, names)), [])
        if len(found) > 1:
            raise DatasetError(
                f"{where}: got {entry!r}, the name of {len(found)} images ({found[0]}, {found[1]}), "
                f"expected one: write the full id"
            )
        if not found:
            raise DatasetError(
                f"{where}: got {entry!r}, expected an {self.kind} such as {self.wanted[0]}: "
                f"correct or remove the line"
            )
        return found[0]

    def exact(self, line: str) -> str | None:
        """Return the id that equals a line with its spaces, None if there is none."""
        return self.ids.get(_composed(line))

    def others(self, word: str, id_: str) -> list[str]:
        """Return the ids that a word names, without a given one."""
        return [other for name in _forms(_composed(word)) for other in self._by_id(name) if other != id_]

    def _by_id(self, name: str) -> list[str]:
        """Return the ids that equal a name, with or without its split."""
        ids = (name, *(f"{split}/{name}" for split in ("train", "unlabeled")))
        return [self.ids[id_] for id_ in ids if id_ in self.ids]

    def _by_stem(self, name: str) -> list[str]:
        """Return the ids with a file name; of a name with folders, only those in a folder of these names."""
        found = self.by_stem.get(PurePosixPath(name).name, [])
        inner = {id_: _composed(id_).removeprefix("train").removeprefix("unlabeled") for id_ in found}
        matched = [id_ for id_ in found if f"/{name}".endswith(inner[id_])]
        return matched or ([] if "/" in name else found)


def _composed(text: str) -> str:
    """Return a text with letters and their accents composed: names differ in this between systems."""
    return normalize("NFC", text)


def _forms(text: str) -> list[str]:
    """Return the forms of a path without leading slash: as given, without suffix, without `NAME_ENDS`."""
    path = PurePosixPath(text.replace("\\", "/").lstrip("/"))
    forms = [path.as_posix()]
    if path.suffix.lower() in IMAGE_SUFFIXES:
        forms.append(path.with_suffix("").as_posix())
    return forms + [forms[-1].removesuffix(end) for end in NAME_ENDS if forms[-1].endswith(end)]


def hold_out(
    path: Path, train: Mapping[str, Files], val: Mapping[str, Files]
) -> dict[Split, dict[str, Files]]:
    """Return `train` and `val` such that `val` holds exactly the images of a list.

    Args:
        path: text file with one image of either split a line.
        train: files of the training images by id, `train/...`.
        val: files of the validation images by id, `val/...`; an image that changes its split changes its id.

    Raises:
        DatasetError: a missing file, a line that names no image with a mask, no image left for training, or
            two images of one name in one split.
    """
    if not path.is_file():
        raise DatasetError(
            f"{path}: got no such file, expected the list of val_list: zoo data split makes one"
        )
    pool = {**train, **val}
    chosen = read_ids(path, IdFinder(tuple(pool), (), "image with a mask"))
    result: dict[Split, dict[str, Files]] = {"train": {}, "val": {}}
    for id_, pair in pool.items():
        split: Split = "val" if id_ in chosen else "train"
        name = f"{split}/{id_.partition('/')[2]}"
        if name in result[split]:
            raise DatasetError(
                f"{path}: got two images {name}, of train and of val, expected different names: rename one"
            )
        result[split][name] = pair
    if not result["train"]:
        raise DatasetError(f"{path}: got all {len(pool)} images, expected some left to train on: shorten it")
    return {split: dict(sorted(pairs.items())) for split, pairs in result.items()}
