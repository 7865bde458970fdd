"""Result of interpreting masks: the classes of their values or colors."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from zoo.classes import IGNORE, Classes
from zoo.data.labels import LabelMap, white_of
from zoo.data.masks import DRAWN

if TYPE_CHECKING:
    from zoo.data.data_file import DataFile
    from zoo.data.files import FileSource
    from zoo.data.inspect.findings import Finding
    from zoo.data.labels import Palettes
    from zoo.data.masks import MaskFacts

MOST_VALUES = 64
"""Largest number of unnamed values in a mask; more come from soft edges or photographs."""


class Seen(NamedTuple):
    """Contents of a mask under an interpretation."""

    codes: dict[int, int]
    """Pixel count of each value or packed color."""
    is_color: bool
    labels: Counter[int]
    """Pixel count of each label, including `IGNORE`."""
    unknown: tuple[int, ...]
    """Codes that have no label."""


class Interpretation(NamedTuple):
    """An interpretation of masks."""

    classes: Classes
    labels: LabelMap | None
    """None if the values are the labels."""
    is_color: bool
    """Whether masks are read by color rather than by value."""
    palettes: Palettes = "index"
    proposal: DataFile | None = None
    """Proposed contents of `data.toml`; None if it is sufficient or nothing can be proposed."""
    findings: tuple[Finding, ...] = ()

    def see(self, mask: MaskFacts) -> Seen | None:
        """Return the contents of a mask; None if it cannot be read under this interpretation."""
        table, is_color = self.labels, self.is_color
        if mask.mode == "P" and not is_color and isinstance(self.palettes, LabelMap):
            table, is_color = self.palettes, True
        if mask.pixels is None or (mask.is_color and not is_color):
            return None
        codes = mask.colors() if is_color else values_of(mask, self.palettes, white_of(table))
        label_of = {code: code for code in (*range(len(self.classes)), IGNORE)}
        label_of = label_of if table is None else dict(table.codes)
        if table is not None and table.unknown == "ignore":
            label_of = {**dict.fromkeys(codes, IGNORE), **label_of}
        labels: Counter[int] = Counter()
        for code, count in codes.items():
            if code in label_of:
                labels[label_of[code]] += count
        return Seen(codes, is_color, labels, tuple(code for code in codes if code not in label_of))


def meaning_of(source: FileSource) -> Interpretation:
    """Return the interpretation by which a source reads its masks."""
    is_color = source.labels is not None and source.labels.kind == "color"
    return Interpretation(source.classes, source.labels, is_color, source.palettes)


def values_of(mask: MaskFacts, palettes: Palettes, white: int = 1) -> dict[int, int]:
    """Return the pixel count of each value of a mask that is not read by color.

    Args:
        mask: contents of the mask.
        palettes: reading of a mask with a palette.
        white: value of white pixels in a 1-bit mask.
    """
    if mask.mode == "P" and palettes == "gray":
        return mask.levels()
    return {code * (white if mask.mode == "1" else 1): count for code, count in (mask.pixels or {}).items()}


def is_soft(mask: MaskFacts, data: DataFile) -> bool:
    """Return whether a mask has too many values or colors for them to be classes."""
    if mask.is_color:
        return mask.pixels is None and data.unknown == "error"
    is_named = data.names is not None or data.labels is not None or data.colors is not None
    return not is_named and mask.mode != DRAWN and len(mask.pixels or ()) > MOST_VALUES
