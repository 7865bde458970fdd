"""Reading of masks with a palette, decided once for a data set.

- Masks that use only gray colors are read as gray levels: tools that optimize PNG files turn gray levels into
  indices of arbitrary order.
- Masks whose indices have the same colors in all files, as in PASCAL VOC, are read by index.
- Masks whose palettes differ are an error.

Gray and differing palettes are read by color if `palette` in `data.toml` lists every color in use.
"""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from PIL import Image

from zoo.classes import IGNORE
from zoo.data.inspect.findings import Finding
from zoo.data.labels import VOID, LabelMap, pack
from zoo.data.masks import BLACK, MOST_SHOWN, NamedMask, read_mask_facts
from zoo.images import READ_ERRORS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zoo.classes import Color
    from zoo.data.data_file import DataFile
    from zoo.data.labels import Palettes
    from zoo.data.masks import MaskFacts

INDEXED = "P"
AT_ONCE = 64
"""Number of masks to decode between two checks of whether they suffice."""


def find_palettes(masks: Sequence[NamedMask], data: DataFile) -> tuple[Palettes, Finding | None]:
    """Return the reading of masks with a palette, and a finding if their palettes conflict.

    Args:
        masks: masks of a data set; those without a palette are not considered.
        data: contents of `data.toml`.
    """
    indexed = [mask for mask in masks if mask.facts.mode == INDEXED and mask.facts.pixels]
    telling = [mask for mask in indexed if not is_plain(mask.facts)]
    distinct = [mask for mask in telling if _is_distinct(mask.facts)]
    if not distinct or _means_indices(_facts(telling), data):
        return "index", None
    is_gray, table = all(map(_is_gray, _facts(telling))), _color_table(data, _facts(indexed))
    pair = _find_conflict(telling)
    if pair is None and not is_gray:
        return "index", None
    if len(distinct) < len(telling):
        pair = distinct[0], next(mask for mask in telling if not _is_distinct(mask.facts))
    elif is_gray:
        return (table if table is not None and data.labels is None else "gray"), None
    elif table is not None:
        return table, None
    assert pair is not None
    pair = sorted(pair, key=telling.index)
    detail = "palettes that differ: " + "; ".join(f"{mask.name} has {_shown(mask.facts)}" for mask in pair)
    return "index", Finding("palettes-differ", tuple(mask.name for mask in pair), detail)


def read_indexed(paths: Sequence[Path]) -> list[NamedMask]:
    """Return enough masks with a palette to decide how all are read, leaving out broken files.

    The headers of all files are read. If all palettes are equal, decoding stops once a mask is not gray.
    """
    found: list[NamedMask] = []
    with ThreadPoolExecutor() as pool:
        stored = list(pool.map(_stored_palette, paths))
        indexed = [path for path, palette in zip(paths, stored, strict=True) if palette is not None]
        is_one = len(set(stored) - {None}) == 1
        for begin in range(0, len(indexed), AT_ONCE):
            found += filter(None, pool.map(_read, indexed[begin : begin + AT_ONCE]))
            if is_one and not all(_is_gray(mask.facts) for mask in found):
                break
    return found


def _stored_palette(path: Path) -> bytes | None:
    """Return the stored palette of a file without decoding pixels; None if it has none."""
    try:
        with Image.open(path) as image:
            return bytes(image.palette.palette) if image.mode == INDEXED and image.palette else None
    except READ_ERRORS:
        return None


def _read(path: Path) -> NamedMask | None:
    try:
        return NamedMask("train", str(path), read_mask_facts(path))
    except READ_ERRORS:
        return None


def _is_gray(facts: MaskFacts) -> bool:
    """Return whether every color in a mask is gray."""
    return all(len(set(facts.color_of(code))) == 1 for code in facts.pixels or {})


def _facts(masks: Sequence[NamedMask]) -> list[MaskFacts]:
    return [mask.facts for mask in masks]


def is_plain(facts: MaskFacts) -> bool:
    """Return whether the gray level of each used index equals the index."""
    return all(facts.color_of(index) == (index, index, index) for index in facts.pixels or {})


def _is_distinct(facts: MaskFacts) -> bool:
    """Return whether no two used indices have the same color."""
    return len(facts.colors()) == len(facts.pixels or {})


def _means_indices(masks: Sequence[MaskFacts], data: DataFile) -> bool:
    """Return whether `labels` in `data.toml` lists the indices of gray masks, not their gray levels."""
    if data.labels is None or not all(map(_is_gray, masks)):
        return False
    listed = {int(value) for value in data.labels if value.isdecimal()}
    listed |= {value for value in data.ignore if isinstance(value, int)}
    indices = {index for facts in masks for index in facts.pixels or {}}
    levels = {level for facts in masks for level in facts.levels()}
    return indices <= listed and not levels <= listed


def _find_conflict(masks: Sequence[NamedMask]) -> Sequence[NamedMask] | None:
    """Return two masks in which an index or a color has different meanings; None if there are none."""
    of_index: dict[int, tuple[Color, NamedMask]] = {}
    for mask in masks:
        for index in mask.facts.pixels or {}:
            color = mask.facts.color_of(index)
            known, other = of_index.setdefault(index, (color, mask))
            if known != color and index != IGNORE:
                return other, mask
    palettes = {mask.facts.palette: mask for mask in reversed(masks)}
    for index, (color, other) in of_index.items():
        for palette, mask in palettes.items():
            # unused entries of a palette are black
            is_stored = index < len(palette) and index != IGNORE
            if is_stored and palette[index] not in (color, BLACK):
                return other, mask
    return _find_moved_color(of_index, palettes)


def _find_moved_color(
    of_index: dict[int, tuple[Color, NamedMask]], palettes: dict[tuple[Color, ...], NamedMask]
) -> Sequence[NamedMask] | None:
    """Return two masks that use different indices for a color, unless a palette has the color at both."""
    indices: dict[Color, list[int]] = defaultdict(list)
    for index, (color, _) in of_index.items():
        indices[color].append(index)
    for color, several in indices.items():
        shared = any(
            all(index < len(palette) and palette[index] == color for index in several) for palette in palettes
        )
        if len(several) > 1 and not shared:
            return of_index[several[0]][1], of_index[several[1]][1]
    return None


def _color_table(data: DataFile, masks: Sequence[MaskFacts]) -> LabelMap | None:
    """Return the map from colors of `palette` in `data.toml` to labels; None if it lacks colors of the masks.

    A color of two classes is left out.
    """
    colors = [pack((red, green, blue)) for red, green, blue in data.palette or ()]
    label_of = {pack(VOID): IGNORE}
    label_of |= {color: label for label, color in enumerate(colors) if colors.count(color) == 1}
    is_listed = all(color in label_of for facts in masks for color in facts.colors())
    return LabelMap(tuple(label_of.items()), "color") if data.palette and is_listed else None


def _shown(facts: MaskFacts) -> str:
    used = sorted(facts.pixels or {})
    entries = [f"{index} = {list(facts.color_of(index))}" for index in used[:MOST_SHOWN]]
    return ", ".join(entries) + (f" and {len(used) - MOST_SHOWN} more" if len(used) > MOST_SHOWN else "")
