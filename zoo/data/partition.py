"""Partition of the training images into labeled and unlabeled: a seeded fraction, a number, or a list.

`auto` is the default for folders. It uses all masks if there are unlabeled images or the method needs none.
Otherwise it hides all but a fraction of the masks, with a warning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import dataclass, field, replace
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.bundle.bundle import write_json, write_text
from zoo.data.lists import IdFinder, read_ids
from zoo.data.open import is_published
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoo.data.source import Source

AUTO, FULL = "auto", "full"
SHARE = "1/8"
"""Fraction that `auto` uses if masks must be hidden, and for published data sets, as their papers do."""
PARTITION = "--partition"
LABELED_NAME, UNLABELED_NAME, RECORD_NAME = "labeled.txt", "unlabeled.txt", "partition.json"
TAGS_NAME = "tags.json"
HIGH_QUALITY, HIDDEN = "high_quality_masks", "hidden_masks"

CHANCE = 5.0
"""Largest deviation of the number of high-quality masks in a random list, in standard deviations."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Partition:
    """The labeled and the unlabeled ids of a run.

    Args:
        spec: requested partition: `1/8`, a number, a path, or `full`.
        seed: seed of the random sample.
        labeled: ids whose masks are used.
        unlabeled: ids whose masks, if any, are not used.
        tags: classes of the unlabeled images whose classes are known (`zoo.data.tags`).
        high_quality: number of labeled images with high-quality masks; None if the data set has masks of one
            quality.
        hidden: number of masks that `auto` hides, and number of all masks; None if it hides none.
    """

    spec: str
    seed: int
    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    tags: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    high_quality: int | None = None
    hidden: tuple[int, int] | None = None

    @property
    def digest(self) -> str:
        """Return a digest of the ids, independent of their order, as 12 hex digits."""
        return _digest([sorted(self.labeled), sorted(self.unlabeled)])

    @property
    def tags_digest(self) -> str:
        """Return a digest of the tags, independent of their order, as 12 hex digits."""
        return _digest(sorted((id_, sorted(labels)) for id_, labels in self.tags.items()))

    def write(self, folder: Path) -> None:
        """Write the two lists, the tags, if any, and their record to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, ids in ((LABELED_NAME, self.labeled), (UNLABELED_NAME, self.unlabeled)):
            write_text(folder / name, "".join(f"{id_}\n" for id_ in ids))
        counts = {"labeled": len(self.labeled), "unlabeled": len(self.unlabeled)}
        record: dict[str, Any] = {"spec": self.spec, "seed": self.seed}
        record |= {"counts": counts, "digest": self.digest}
        if self.high_quality is not None:
            record[HIGH_QUALITY] = self.high_quality
        if self.hidden is not None:
            record[HIDDEN] = self.hidden
        if self.tags:
            record["tags"] = {"images": len(self.tags), "digest": self.tags_digest}
            write_json(folder / TAGS_NAME, self.tags)
        write_json(folder / RECORD_NAME, record)

    def hidden_note(self, data: str) -> str | None:
        """Return the warning that `auto` hides masks; None if it hides none.

        Args:
            data: spec of the source, for the message.
        """
        if self.hidden is None:
            return None
        hidden, masks = self.hidden
        return (
            f"{hidden:,} of {masks:,} training masks are not used: semi-supervised training needs images "
            f"without masks, {data} has none, and so {PARTITION} {self.spec} is the default. To use all "
            f"masks, add such images in unlabeled/ ({PARTITION} {FULL} is the default then), or train "
            f"supervised; {PARTITION} 1/2 uses half of them."
        )

    @classmethod
    def read(cls, folder: Path) -> Partition:
        """Return the partition that `write` saved in a folder.

        Raises:
            DatasetError: a file is missing or broken, or the lists do not match the record.
        """
        try:
            record = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
            labeled, unlabeled = (_read_ids(folder / name) for name in (LABELED_NAME, UNLABELED_NAME))
            tags = json.loads((folder / TAGS_NAME).read_text(encoding="utf-8")) if "tags" in record else {}
            tags = {id_: tuple(labels) for id_, labels in tags.items()}
            known = record["spec"], record["seed"]
            hidden = record.get(HIDDEN)
            quality = record.get(HIGH_QUALITY)
            partition = cls(*known, labeled, unlabeled, tags, quality, hidden and tuple(hidden))
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


def make_partition(source: Source, spec: str | None, seed: int, *, needs_unlabeled: bool = True) -> Partition:
    """Return the partition of a source's training images; images of the split `unlabeled` are unlabeled too.

    Samples of one seed are nested: 1/16 is part of 1/8. They depend on the ids alone.

    Args:
        source: source whose split `train` is divided.
        spec: `1/8`, a number of images, a text file of ids, `auto`, or None or `full` for all.
        seed: seed of the random sample.
        needs_unlabeled: whether the method needs unlabeled images, for `auto`.

    Raises:
        DatasetError: an invalid spec, or one that requests images that do not exist.
    """
    train = source.ids("train")
    is_auto = spec == AUTO
    if is_auto:
        spec = _automatic(source, needs_unlabeled=needs_unlabeled)
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
    hidden = (len(rest), len(train)) if is_auto and rest and not is_published(source.spec) else None
    partition = Partition(spec, seed, labeled, rest + source.ids("unlabeled"), hidden=hidden)
    precise = source.precise_ids()
    if precise is None:
        return partition
    count = len(precise & chosen)
    _warn_if_not_random(spec, count, len(chosen), len(precise), len(train))
    return replace(partition, high_quality=count)


def _automatic(source: Source, *, needs_unlabeled: bool) -> str:
    """Return the partition that `auto` stands for."""
    has_to_hide = needs_unlabeled and not source.ids("unlabeled")
    return SHARE if has_to_hide or is_published(source.spec) else FULL


def _warn_if_not_random(spec: str, count: int, chosen: int, precise: int, train: int) -> None:
    """Warn if a random list of `chosen` images is very unlikely to hold `count` of the `precise` ones.

    U2PL's lists of blended VOC take VOC's own masks first: 662 of 662 and 1,464 of 5,291, where random lists
    have 92 and 732 on average (`docs/data.md`).
    """
    share = precise / train
    mean = chosen * share  # of the hypergeometric distribution
    deviation = sqrt(mean * (1 - share) * (train - chosen) / max(1, train - 1))
    if abs(count - mean) > CHANCE * deviation + 0.5:
        log.warning(
            "%s is not a random list: %d of its %d labeled images have high-quality masks, by chance %.0f; "
            "its results are not comparable with those of random lists",
            spec, count, chosen, mean,
        )  # fmt: skip


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()[:12]


def _read_ids(path: Path) -> tuple[str, ...]:
    return tuple(line for line in path.read_text(encoding="utf-8").split("\n") if line)


def count_of(spec: str, available: int, option: str = PARTITION, source: str = "split train has") -> int:
    """Return the number of images that a fraction or a number stands for.

    Args:
        spec: `1/8` or `100`.
        available: number of available images.
        option: option that set the spec, for the message.
        source: subject of the message that has the images.

    Raises:
        DatasetError: a number above `available`, or a fraction outside (0, 1].
    """
    if "/" not in spec:
        count = int(spec)
        if not 1 <= count <= available:
            raise DatasetError(
                f"{option} {spec}: got {count} images, expected 1..{available}, as {source}: ask for so many"
                + (f", or for `{FULL}`" if option == PARTITION else "")
            )
        return count
    above, below = (int(part) for part in spec.split("/"))
    if not 0 < above <= below:
        raise DatasetError(
            f"{option} {spec}: got a fraction outside (0, 1], expected one such as 1/8: correct it"
        )
    return max(1, (2 * available * above + below) // (2 * below))  # rounded, half up


def _sample(ids: tuple[str, ...], count: int, seed: int) -> set[str]:
    """Return `count` ids, sampled by the rank of a hash: the same on every machine and version."""
    ranked = sorted(ids, key=lambda id_: hashlib.sha256(f"{seed}:{id_}".encode()).digest())
    return set(ranked[:count])


def _listed(path: Path, source: Source) -> set[str]:
    """Return the ids in a text file, one entry or `image mask` pair a line."""
    if not path.is_file():
        raise DatasetError(
            f"{PARTITION} {path}: got no such file, expected a fraction (1/8), a number of images (100), "
            f"a text file of ids, or `full`: check the spelling"
        )
    find = IdFinder(source.ids("train"), source.ids("unlabeled") + source.ids("val"), "image of split train")
    return read_ids(path, find)
