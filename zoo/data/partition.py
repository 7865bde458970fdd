"""Which training images count as labelled: a seeded fraction, a number, or a published list."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from zoo.bundle import replacing, write_json
from zoo.data.files import IMAGE_SUFFIXES
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from zoo.data.source import Source

FULL = "full"
LABELED_NAME, UNLABELED_NAME, RECORD_NAME = "labeled.txt", "unlabeled.txt", "partition.json"


@dataclass(frozen=True)
class Partition:
    """The labelled and the unlabelled ids of a run.

    Args:
        spec: what was asked for: `1/8`, a number, a path, `full`.
        seed: of the random sample.
        labeled: ids whose masks are used.
        unlabeled: ids whose masks, if any, are not.
    """

    spec: str
    seed: int
    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Return 12 hex digits that two partitions share if they hold the same ids, in whatever order."""
        canonical = json.dumps([sorted(self.labeled), sorted(self.unlabeled)], separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def write(self, folder: Path) -> None:
        """Write the two lists and their record into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, ids in ((LABELED_NAME, self.labeled), (UNLABELED_NAME, self.unlabeled)):
            with replacing(folder / name) as temporary:
                temporary.write_text("".join(f"{id_}\n" for id_ in ids), encoding="utf-8")
        counts = {"labeled": len(self.labeled), "unlabeled": len(self.unlabeled)}
        record = {"spec": self.spec, "seed": self.seed, "counts": counts, "digest": self.digest}
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
            partition = cls(record["spec"], record["seed"], labeled, unlabeled)
            digest = record["digest"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{folder}: got no partition that can be read ({error!r}), expected {LABELED_NAME}, "
                f"{UNLABELED_NAME} and {RECORD_NAME}: make it again"
            ) from error
        if partition.digest != digest:
            raise DatasetError(
                f"{folder}: got lists with the digest {partition.digest}, expected {digest} as in "
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
        chosen = _sample(train, _count(spec, len(train)), seed)
    else:
        chosen = _listed(Path(spec), source)
    labeled = tuple(id_ for id_ in train if id_ in chosen)
    rest = tuple(id_ for id_ in train if id_ not in chosen)
    return Partition(spec, seed, labeled, rest + source.ids("unlabeled"))


def _read_ids(path: Path) -> tuple[str, ...]:
    return tuple(line for line in path.read_text(encoding="utf-8").split("\n") if line)


def _count(spec: str, available: int) -> int:
    """Return how many images a fraction or a number asks for."""
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
    find = _Finder(source)
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
        id_ = find(entry, f"{path}:{number}")
        if id_ in line_of:
            raise DatasetError(
                f"{path}:{number}: got {id_} again, expected each image once, it is on line {line_of[id_]}: "
                f"remove one"
            )
        line_of[id_] = number
    if not line_of:
        raise DatasetError(f"{path}: got a list without entries, expected one image a line: add some")
    return set(line_of)


class _Finder:
    """Finds the training id that an entry of a list means."""

    def __init__(self, source: Source) -> None:
        self.train = source.ids("train")
        self.ids = frozenset(self.train)
        self.other_ids = frozenset(source.ids("unlabeled") + source.ids("val"))
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        for id_ in self.train:
            self.by_stem[PurePosixPath(id_).name].append(id_)

    def __call__(self, entry: str, where: str) -> str:
        """Return the id: by full id, by path with or without suffix, then by the name alone."""
        # the whole line first: names may hold spaces
        names = [name for text in (entry, entry.split()[0]) for name in _forms(text)]
        found = [id_ for name in names for id_ in (name, f"train/{name}") if id_ in self.ids]
        if not found and self.other_ids.isdisjoint(names):
            found = next(filter(None, map(self._by_stem, names)), [])
            if len(found) > 1:
                raise DatasetError(
                    f"{where}: got {entry!r}, the name of {len(found)} images ({found[0]}, {found[1]}), "
                    f"expected one: write the full id"
                )
        if not found:
            raise DatasetError(
                f"{where}: got {entry!r}, expected an image of split train such as {self.train[0]}: "
                f"correct or remove the line"
            )
        return found[0]

    def _by_stem(self, name: str) -> list[str]:
        """Return the ids of a file name; those that also agree in the folders, if any do."""
        found = self.by_stem.get(PurePosixPath(name).name, [])
        return [id_ for id_ in found if f"/{name}".endswith(id_.removeprefix("train"))] or found


def _forms(text: str) -> list[str]:
    """Return a path without its leading slash: as it is, then without an image's suffix."""
    path = PurePosixPath(text.replace("\\", "/").lstrip("/"))
    forms = [path.as_posix()]
    if path.suffix.lower() in IMAGE_SUFFIXES:
        forms.append(path.with_suffix("").as_posix())
    return forms
