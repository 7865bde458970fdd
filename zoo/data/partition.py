"""Which training images count as labelled: a seeded fraction, a number, or a published list."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.bundle import replacing, write_json
from zoo.data.files import IMAGE_SUFFIXES
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from zoo.data.source import Source

FULL = "full"
LABELED_NAME, UNLABELED_NAME, RECORD_NAME = "labeled.txt", "unlabeled.txt", "partition.json"
TAGS_NAME = "tags.json"


@dataclass(frozen=True)
class Partition:
    """The labelled and the unlabelled ids of a run.

    Args:
        spec: what was asked for: `1/8`, a number, a path, `full`.
        seed: of the random sample.
        labeled: ids whose masks are used.
        unlabeled: ids whose masks, if any, are not.
        tags: the classes of those unlabeled images whose classes are known; see `zoo.data.tags`.
    """

    spec: str
    seed: int
    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    tags: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Return 12 hex digits that two partitions share if they hold the same ids, in whatever order."""
        return _digest([sorted(self.labeled), sorted(self.unlabeled)])

    @property
    def tags_digest(self) -> str:
        """Return 12 hex digits that the same tags share, in whatever order."""
        return _digest(sorted((id_, sorted(labels)) for id_, labels in self.tags.items()))

    def write(self, folder: Path) -> None:
        """Write the two lists, the tags if there are any, and their record into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, ids in ((LABELED_NAME, self.labeled), (UNLABELED_NAME, self.unlabeled)):
            with replacing(folder / name) as temporary:
                temporary.write_text("".join(f"{id_}\n" for id_ in ids), encoding="utf-8")
        counts = {"labeled": len(self.labeled), "unlabeled": len(self.unlabeled)}
        record: dict[str, Any] = {"spec": self.spec, "seed": self.seed}
        record |= {"counts": counts, "digest": self.digest}
        if self.tags:
            record["tags"] = {"images": len(self.tags), "digest": self.tags_digest}
            write_json(folder / TAGS_NAME, self.tags)
        write_json(folder / RECORD_NAME, record)

    @classmethod
    def read(cls, folder: Path) -> Partition:
        """Return the partition that `write` left in a folder.

        Raises:
            DatasetError: a file is missing or broken, or the lists are not those of the record.
        """
        try:
            record = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
            labeled, unlabeled = (_read_ids(folder / name) for name in (LABELED_NAME, UNLABELED_NAME))
            tags = json.loads((folder / TAGS_NAME).read_text(encoding="utf-8")) if "tags" in record else {}
            tags = {id_: tuple(labels) for id_, labels in tags.items()}
            partition = cls(record["spec"], record["seed"], labeled, unlabeled, tags)
            digests = record["digest"], record.get("tags", {}).get("digest", _digest([]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{folder}: got no partition that can be read ({error!r}), expected {LABELED_NAME}, "
                f"{UNLABELED_NAME} and {RECORD_NAME}: make it again"
            ) from error
        got = partition.digest, partition.tags_digest
        if got != digests:
            raise DatasetError(
                f"{folder}: got lists with the digest {' '.join(got)}, expected {' '.join(digests)} as in "
                f"{RECORD_NAME}: they were edited; restore them or make the partition again"
            )
        return partition


def make_partition(source: Source, spec: str | None, seed: int) -> Partition:
    """Return the partition of a source's training images; those of the split `unlabeled` join the unlabelled.

    Samples of one seed are nested: 1/16 is part of 1/8. They depend on the ids alone.

    Args:
        source: its split `train` is divided.
        spec: `1/8`, a number of images, a text file of ids, or None or `full` for all.
        seed: of the random sample.

    Raises:
        DatasetError: the spec cannot be read or asks for images that are not there.
    """
    train = source.ids("train")
    if spec is None:
        spec = FULL
    if not train:
        raise DatasetError(
            f"{source.spec}: got no images in split train, expected at least one: add images and masks"
        )
    if spec == FULL:
        chosen = set(train)
    elif re.fullmatch(r"-?\d+(/-?\d+)?", spec):
        chosen = _sample(train, count_of(spec, len(train)), seed)
    else:
        chosen = _listed(Path(spec), source)
    labeled = tuple(id_ for id_ in train if id_ in chosen)
    rest = tuple(id_ for id_ in train if id_ not in chosen)
    return Partition(spec, seed, labeled, rest + source.ids("unlabeled"))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()[:12]


def _read_ids(path: Path) -> tuple[str, ...]:
    return tuple(line for line in path.read_text(encoding="utf-8").split("\n") if line)


def count_of(spec: str, available: int) -> int:
    """Return how many images a fraction or a number asks for.

    Args:
        spec: `1/8` or `100`.
        available: number of images.

    Raises:
        DatasetError: more than there are, or a fraction outside (0, 1].
    """
    if "/" not in spec:
        count = int(spec)
        if not 1 <= count <= available:
            raise DatasetError(
                f"--partition {spec}: got {count} images, expected 1..{available}, as split train has: "
                f"ask for fewer, or for `full`"
            )
        return count
    above, below = (int(part) for part in spec.split("/"))
    if not 0 < above <= below:
        raise DatasetError(
            f"--partition {spec}: got a fraction outside (0, 1], expected one such as 1/8: correct it"
        )
    return max(1, (2 * available * above + below) // (2 * below))  # rounded, half up


def _sample(ids: tuple[str, ...], count: int, seed: int) -> set[str]:
    """Return `count` ids, drawn by the rank of a hash: the same on every machine and version."""
    ranked = sorted(ids, key=lambda id_: hashlib.sha256(f"{seed}:{id_}".encode()).digest())
    return set(ranked[:count])


def _listed(path: Path, source: Source) -> set[str]:
    """Return the ids that a text file lists, one entry or `image mask` pair a line."""
    if not path.is_file():
        raise DatasetError(
            f"--partition {path}: got no such file, expected a fraction (1/8), a number of images (100), "
            f"a text file of ids, or `full`: check the spelling"
        )
    find = IdFinder(source.ids("train"), source.ids("unlabeled") + source.ids("val"), "image of split train")
    return {line.id_ for line in read_list(path, find)}


class Line(NamedTuple):
    """One entry of a list of images."""

    where: str
    """File and line number, for messages."""
    id_: str
    words: tuple[str, ...]
    """What stands in the line after its first word."""


def read_list(path: Path, find: IdFinder) -> Iterator[Line]:
    """Yield the entries of a text file, one a line; a line that starts with `#` is a remark.

    Raises:
        DatasetError: no text or no entries, an entry that is no id, an id twice.
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
        id_ = find(entry, where)
        if id_ in line_of:
            raise DatasetError(
                f"{where}: got {id_} again, expected each image once, it is on line {line_of[id_]}: "
                f"remove one"
            )
        line_of[id_] = number
        yield Line(where, id_, tuple(entry.split()[1:]))
    if not line_of:
        raise DatasetError(f"{path}: got a list without entries, expected one image a line: add some")


class IdFinder:
    """Finds the id that an entry of a list means.

    Args:
        wanted: ids that an entry may mean, at least one.
        others: ids that it may not mean.
        kind: what the wanted ones are, for messages.
    """

    def __init__(self, wanted: Sequence[str], others: Collection[str], kind: str) -> None:
        self.kind = kind
        self.wanted = wanted
        self.ids = frozenset(wanted)
        self.other_ids = frozenset(others)
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        for id_ in wanted:
            self.by_stem[PurePosixPath(id_).name].append(id_)

    def __call__(self, entry: str, where: str) -> str:
        """Return the id: by full id, by path with or without suffix, then by the name alone."""
        # the whole line first: names may hold spaces
        names = [name for text in (entry, entry.split()[0]) for name in _forms(text)]
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

    def _by_id(self, name: str) -> list[str]:
        """Return the ids of a name, with its split or without."""
        ids = (name, *(f"{split}/{name}" for split in ("train", "unlabeled")))
        return [id_ for id_ in ids if id_ in self.ids]

    def _by_stem(self, name: str) -> list[str]:
        """Return the ids of a file name; those that also agree in the folders, if any do."""
        found = self.by_stem.get(PurePosixPath(name).name, [])
        inner = {id_: id_.removeprefix("train").removeprefix("unlabeled") for id_ in found}
        return [id_ for id_ in found if f"/{name}".endswith(inner[id_])] or found


def _forms(text: str) -> list[str]:
    """Return a path without its leading slash: as it is, then without an image's suffix."""
    path = PurePosixPath(text.replace("\\", "/").lstrip("/"))
    forms = [path.as_posix()]
    if path.suffix.lower() in IMAGE_SUFFIXES:
        forms.append(path.with_suffix("").as_posix())
    return forms
