"""Detection of classes that are stored as 255, which means ignore unless `data.toml` gives it a class.

255 is `alone` in a mask with background but no other class, e.g. a mask of 0 and 255, and `beside` classes
otherwise. Borders and unlabeled regions occur beside classes; a class that is stored as 255 occurs alone.
`ignore = [255]` in `data.toml` states that 255 is not a class, and disables this check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zoo.classes import IGNORE
from zoo.data.inspect.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zoo.data.data_file import DataFile
    from zoo.data.inspect.meaning import Interpretation
    from zoo.data.masks import NamedMask

MOST = 0.5
"""Share of 255 in the pixels that are not background above which it is suspicious."""
NEARLY_ALL = 0.9
"""Share that is a fault even if 255 is beside other classes and no class is missing."""
OUTLIER = 2
"""Suspicious ratio of the largest share of a mask that 255 covers alone to that beside classes."""
ONE_BIT = "1"


class _Shown(NamedTuple):
    """Pixel counts of a mask."""

    mask: NamedMask
    values: dict[int, int]
    void: int
    """Pixels of the value 255."""
    background: int
    classes: int
    """Pixels of the labels from 1."""

    @property
    def is_alone(self) -> bool:
        return bool(self.void and self.background and not self.classes)

    @property
    def is_beside(self) -> bool:
        return bool(self.void and self.classes)

    @property
    def share(self) -> float:
        """Return the share of 255 in the mask."""
        return self.void / (self.void + self.background + self.classes)

    def __str__(self) -> str:
        return self.mask.in_words(self.values)


def find_hidden(masks: Sequence[NamedMask], meaning: Interpretation, data: DataFile) -> Iterator[Finding]:
    """Yield findings that a class is stored as 255, or that white is ambiguous in 1-bit masks.

    Args:
        masks: readable masks.
        meaning: interpretation by which they are read.
        data: contents of `data.toml`.
    """
    shown = [found for mask in masks if (found := _show(mask, meaning)) is not None]
    yield from _find_ambiguous_white(shown, meaning)
    label_of_void = dict(() if meaning.labels is None else meaning.labels.codes).get(IGNORE, IGNORE)
    if meaning.is_color or label_of_void != IGNORE or IGNORE in data.ignore:
        return
    binary, others = _of_binary(shown), [one for one in shown if one.classes]
    if binary and others and not any(one.is_beside for one in shown):
        odd = min(binary, others, key=len)
        detail = f"masks of 0 and 255 among masks of class numbers: {binary[0]}, {others[0]}"
        yield Finding("mixed-values", tuple(one.mask.name for one in odd), detail)
        return
    limit = MOST if (data.names or data.labels) and _misses_one(masks, meaning) else NEARLY_ALL
    for split in dict.fromkeys(one.mask.split for one in shown):
        yield from _find_covered(split, [one for one in shown if one.mask.split == split], limit)


def _show(mask: NamedMask, meaning: Interpretation) -> _Shown | None:
    seen = meaning.see(mask.facts)
    if seen is None or seen.is_color:
        return None
    background = seen.labels[0]
    classes = seen.labels.total() - background - seen.labels[IGNORE]
    return _Shown(mask, seen.codes, seen.codes.get(IGNORE, 0), background, classes)


def _of_binary(shown: Sequence[_Shown]) -> list[_Shown]:
    """Return the masks that seem to be of 0 and 255; masks of 255 alone count if they are many."""
    alone = [one for one in shown if one.is_alone]
    full = [one for one in shown if one.void and not one.background and not one.classes]
    empty = [one for one in shown if not one.void and not one.classes]
    are_many = empty and len(full) > sum(one.classes > 0 for one in shown)
    return alone or (full if are_many else [])


def _find_covered(split: str, shown: Sequence[_Shown], limit: float) -> Iterator[Finding]:
    """Yield a finding if 255 covers most of a split's pixels that are not background, or is an outlier."""
    alone = sum(one.void for one in shown if one.is_alone)
    beside = sum(one.void for one in shown if one.is_beside)
    total = alone + beside + sum(one.classes for one in shown)
    if alone + beside <= MOST * total:
        yield from _find_outlier(shown)
        return
    # scribbles: most pixels of masks with classes are unlabeled
    is_sparse = beside > sum(one.background + one.classes for one in shown if one.is_beside)
    is_hidden = not is_sparse and (alone > MOST * total or alone + beside >= limit * total)
    held = [one for one in shown if one.is_alone or one.is_beside]
    example = max(held, key=lambda one: (one.is_alone, one.void))
    share = f"{(alone + beside) / total:.0%}"
    detail = f"255, which means ignore, on {share} of what is not background in {split}, as in {example}"
    yield Finding("hidden-class" if is_hidden else "mostly-ignored", (example.mask.name,), detail)


def _find_outlier(shown: Sequence[_Shown]) -> Iterator[Finding]:
    """Yield a finding for the mask in which 255 is alone and covers much more than it does beside classes."""
    usual = max((one.share for one in shown if one.is_beside), default=0.0)
    widest = max((one for one in shown if one.is_alone), key=lambda one: one.share, default=None)
    if widest is not None and widest.share > OUTLIER * usual:
        detail = (
            f"255, which means ignore, on {widest.share:.0%} of {widest}, elsewhere on {usual:.0%} at most"
        )
        yield Finding("wide-void", (widest.mask.name,), detail)


def _misses_one(masks: Sequence[NamedMask], meaning: Interpretation) -> bool:
    """Return whether exactly one class is absent from all masks."""
    labels = {label for mask in masks if (seen := meaning.see(mask.facts)) for label in seen.labels}
    return len(set(range(len(meaning.classes))) - labels) == 1


def _find_ambiguous_white(shown: Sequence[_Shown], meaning: Interpretation) -> Iterator[Finding]:
    """Yield a finding if white in 1-bit masks may be 1 or 255, because other masks have more values."""
    white = next((one for one in shown if one.mask.facts.mode == ONE_BIT and max(one.values)), None)
    others = [one for one in shown if one.mask.facts.mode != ONE_BIT]
    values = {value for one in others for value in one.values}
    label_of = dict(() if meaning.labels is None else meaning.labels.codes)
    is_told = meaning.labels is not None and (label_of.get(1) == label_of.get(IGNORE) or 1 not in label_of)
    if white is None or is_told or values <= {0, 1} or values <= {0, IGNORE}:
        return
    other = next(one for one in others if max(one.values) > 1)
    detail = f"1-bit masks, whose white is 1 or 255, among masks of more values: {white}, {other}"
    yield Finding("mixed-modes", (white.mask.name,), detail)
