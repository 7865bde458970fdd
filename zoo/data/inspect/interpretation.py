"""Interpretation of a folder's masks: given by its `data.toml`, or else inferred from values or colors."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from zoo.classes import IGNORE, Classes
from zoo.data.data_file import DataFile, build_classes, class_names, label_map
from zoo.data.formats.palettes import find_palettes, is_plain
from zoo.data.inspect.findings import Finding, faults
from zoo.data.inspect.hidden import find_hidden
from zoo.data.inspect.meaning import Interpretation, is_soft, values_of
from zoo.data.labels import VALUES, VOID, LabelMap, pack, unpack, white_of
from zoo.data.masks import BLACK, WHITE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from zoo.data.labels import Palettes
    from zoo.data.masks import NamedMask

SPARSE = 2
"""Values are sparse if the labels up to the highest value are more than this many times as many."""
FAR = 10
"""Values of another encoding are at least this many times the highest class number."""
MOST_LISTED, MOST_SHOWN, MOST_KINDS = 20, 12, 4
"""Numbers of values, colors and kinds of masks shown in a finding."""


def find_meaning(data: DataFile, toml: Path, masks: Sequence[NamedMask]) -> Interpretation:
    """Return the interpretation of mask files.

    Args:
        data: contents of `data.toml`.
        toml: path of `data.toml`, for messages.
        masks: all readable masks.

    Raises:
        DatasetError: an inconsistent `data.toml`.
    """
    labels, names = label_map(data, toml), class_names(data, toml)
    if labels is not None and names is not None and labels.kind == "color":
        return Interpretation(build_classes(data, toml, names), labels, is_color=True)
    hard = [mask for mask in masks if mask.facts.pixels and not is_soft(mask.facts, data)]
    colored = [mask for mask in hard if mask.facts.is_color]
    if 2 * len(colored) > len(hard) and (labels is None or names is None):
        return _of_colors(data, toml, hard if _share_colors(hard) else colored)
    meaning = _of_values(data, toml, [mask for mask in hard if not mask.facts.is_color], labels)
    is_in_colors = bool(colored) or any(one.kind == "palettes-differ" for one in meaning.findings)
    if is_in_colors and _share_colors(hard):
        return meaning._replace(proposal=_of_colors(data, toml, hard).proposal)
    return meaning


def _of_values(
    data: DataFile, toml: Path, masks: Sequence[NamedMask], labels: LabelMap | None
) -> Interpretation:
    """Return the interpretation of masks of values."""
    palettes, conflict = find_palettes(masks, data)
    values, names = _count_values(masks, palettes, data, labels), class_names(data, toml)
    if conflict is None and labels is None and IGNORE in values and set(values) <= {0, IGNORE}:
        return _of_binary(data, toml, masks, palettes)
    if conflict is None and names is None and _are_sparse(values):
        return _of_sparse(data, toml, masks, palettes)
    listed = len(data.palette or ()) if isinstance(palettes, LabelMap) else 2
    count = max([*(value + 1 for value in values if value != IGNORE), listed, 2])
    known = names or tuple(f"class_{label}" for label in range(count))
    meaning = Interpretation(build_classes(data, toml, known), labels, False, palettes)
    if conflict is not None:
        return meaning._replace(findings=(conflict,))
    renumbered = _renumbered(data, values, len(masks))
    if renumbered is not None:  # unknown values are reported for each mask
        return meaning._replace(proposal=renumbered)
    findings = tuple(find_hidden(masks, meaning, data))
    if any(faults(findings)):
        return _unhidden(meaning, data, toml, values, findings)
    proposal = data.model_copy(update={"names": list(known)}) if names is None and len(values) > 1 else None
    return meaning._replace(proposal=proposal, findings=findings)


def _count_values(
    masks: Sequence[NamedMask], palettes: Palettes, data: DataFile, labels: LabelMap | None
) -> Counter[int]:
    """Return for each value the number of masks with it, except ignored values and masks read by color."""
    read = [mask.facts for mask in masks if mask.facts.mode != "P" or not isinstance(palettes, LabelMap)]
    values = Counter(value for facts in read if facts.mode != "1" for value in values_of(facts, palettes))
    is_gray = labels is None and IGNORE in values and 1 not in values
    white = IGNORE if is_gray else white_of(labels)
    values.update(value for facts in read if facts.mode == "1" for value in values_of(facts, palettes, white))
    return Counter({value: count for value, count in values.items() if value not in data.ignore})


def _are_sparse(values: Iterable[int]) -> bool:
    """Return whether values skip most labels up to the highest."""
    numbers = set(values) - {IGNORE}
    return bool(numbers) and max(numbers) + 1 > SPARSE * len(numbers)


def _of_binary(data: DataFile, toml: Path, masks: Sequence[NamedMask], palettes: Palettes) -> Interpretation:
    """Return the interpretation of masks of 0 and 255, with a proposed table of labels."""
    names = class_names(data, toml)
    chosen = names if names and len(names) == 2 else ("background", "foreground")
    meaning = _proposed(data, toml, dict(zip((0, IGNORE), chosen, strict=True)), palettes)
    held = [(mask, values_of(mask.facts, palettes, IGNORE)) for mask in masks]
    values = sorted({value for _, found in held for value in found})
    detail = f"masks with no values but {values}, where 255 means ignore, such as {_of_each_kind(held)}"
    files = tuple(mask.name for mask, found in held if IGNORE in found)
    return meaning._replace(findings=(Finding("binary-masks", files, detail),))


def _of_sparse(data: DataFile, toml: Path, masks: Sequence[NamedMask], palettes: Palettes) -> Interpretation:
    """Return the interpretation of masks with sparse values, with a proposed table of labels."""
    values = _count_values(masks, palettes, data, None)
    held = [(mask, values_of(mask.facts, palettes, 1 if 1 in values else IGNORE)) for mask in masks]
    table = {value: f"class_{label}" for label, value in enumerate(sorted(values))}
    numbers, others = _two_encodings(values, [found for _, found in held])
    if len(numbers) == len(others):
        table |= {other: table[number] for number, other in zip(numbers, others, strict=True)}
    counts = ", ".join(f"{value} (in {values[value]})" for value in sorted(values)[:MOST_LISTED])
    detail = f"masks with the values {counts}, such as {_of_each_kind(held)}"
    rare = sorted(held, key=lambda item: min((values[value] for value in item[1]), default=0))
    finding = Finding("sparse-values", tuple(mask.name for mask, _ in rare), detail)
    meaning = _proposed(data, toml, table, palettes)._replace(findings=(finding,))
    return meaning if len(numbers) == len(others) else meaning._replace(proposal=None)


def _two_encodings(values: Iterable[int], masks: Sequence[dict[int, int]]) -> tuple[list[int], list[int]]:
    """Return class numbers, and the much larger values of masks in another encoding; none if mixed.

    Example:
        >>> _two_encodings([0, 1, 2, 127, 255], [{0: 1, 1: 1, 2: 1}, {0: 1, 127: 1, 255: 1}])
        ([1, 2], [127, 255])
    """
    every = sorted(set(values) - {0})
    numbers = [value for place, value in enumerate(every, start=1) if value == place]
    others = every[len(numbers) :]
    is_mixed = any(set(numbers) & set(mask) and set(others) & set(mask) for mask in masks)
    if is_mixed or not numbers or not others or others[0] < FAR * numbers[-1]:
        return [], []
    return numbers, others


def _of_each_kind(masks: Iterable[tuple[NamedMask, dict[int, int]]]) -> str:
    """Return descriptions of the first mask of each mode, then of each set of values, up to `MOST_KINDS`."""
    by_mode: dict[str, str] = {}
    by_values: dict[frozenset[int], str] = {}
    for mask, values in masks:
        words = mask.in_words(values)
        if mask.facts.mode in by_mode:
            by_values.setdefault(frozenset(values), words)
        else:
            by_mode[mask.facts.mode] = words
            by_values[frozenset(values)] = words
    return ", ".join(list(dict.fromkeys((*by_mode.values(), *by_values.values())))[:MOST_KINDS])


def _unhidden(
    meaning: Interpretation, data: DataFile, toml: Path, values: Iterable[int], findings: tuple[Finding, ...]
) -> Interpretation:
    """Return the interpretation with its faults and, if it can be inferred, a table with a class for 255."""
    names = class_names(data, toml)
    is_mixed = any(finding.kind == "mixed-values" for finding in findings)
    missing = set(range(len(meaning.classes))) - set(values)
    if is_mixed and len(meaning.classes) == 2:
        names, hidden = names or ("background", "foreground"), 1
    elif not is_mixed and names is not None and len(missing) == 1 and data.labels is None:
        hidden = missing.pop()
    else:
        return meaning._replace(findings=findings)
    labels = data.labels or {str(value): name for value, name in enumerate(names) if value in values}
    update = {"labels": labels | {str(IGNORE): names[hidden]}, "names": data.names}
    return _meaning_of(data.model_copy(update=update), toml, meaning.palettes)._replace(findings=findings)


def _renumbered(data: DataFile, values: Counter[int], masks: int) -> DataFile | None:
    """Return a proposed table of labels if most masks have values beyond the names, and as many as names."""
    if data.names is None or data.labels is not None:
        return None
    numbers = sorted(set(values) - {IGNORE})
    held = numbers if len(numbers) == len(data.names) else sorted(values)
    beyond = max((values[value] for value in numbers if value >= len(data.names)), default=0)
    if len(held) != len(data.names) or 2 * beyond <= masks:
        return None
    labels = dict(zip(map(str, held), data.names, strict=True))
    return data.model_copy(update={"names": None, "labels": labels})


def _share_colors(masks: Sequence[NamedMask]) -> bool:
    """Return whether one table of colors can describe all masks, independent of their modes."""
    colors: dict[bool, set[int]] = {True: set(), False: set()}
    for _, _, facts in masks:
        shown = facts.colors()
        if len(shown) < len(facts.pixels or ()):  # several values have one color
            return False
        colors[facts.is_color or (facts.mode == "P" and not is_plain(facts))].update(shown)
    return colors[True] <= colors[False] or colors[False] <= colors[True]


def _of_colors(data: DataFile, toml: Path, masks: Sequence[NamedMask]) -> Interpretation:
    """Return the interpretation of color masks, with a proposed table of colors.

    Black is the background; the others follow by their index in palettes, then by area. If the colors are
    gray levels of class numbers, white is ignored.
    """
    area: Counter[int] = Counter()
    index_of: dict[int, int] = {}
    for _, _, facts in masks:
        area.update(facts.colors())
        for code in facts.pixels or {}:
            index_of.setdefault(pack(facts.color_of(code)), VALUES if facts.is_color else code)
    order = sorted(area, key=lambda code: (code != 0, index_of[code], -area[code], code))
    colors = [unpack(code) for code in order]
    levels = {color[0] for color in colors if len(set(color)) == 1}
    is_numbered = len(levels) == len(colors) and levels - {IGNORE} != {0} and not _are_sparse(levels)
    void = WHITE if is_numbered else VOID
    listed = [color for color in colors if color != void]
    files = tuple(mask.name for mask in masks if mask.facts.is_color)
    shown = ", ".join(str(list(color)) for color in colors[:MOST_SHOWN])
    finding = Finding("color-masks", files, f"masks in colors: {shown}")
    if not 2 <= len(listed) < IGNORE:
        classes = Classes.of(tuple(f"class_{label}" for label in range(2)))
        return Interpretation(classes, None, is_color=True, findings=(finding,))
    names = data.names or ["background" if color == BLACK else f"class_{k}" for k, color in enumerate(listed)]
    if len(names) != len(listed):
        names = [f"class_{label}" for label in range(len(listed))]
    update = {
        "names": None,
        "labels": None,
        "colors": {name: list(color) for name, color in zip(names, listed, strict=True)},
        "ignore": [list(void)] if void in colors else [],
    }
    return _meaning_of(data.model_copy(update=update), toml)._replace(findings=(finding,))


def _proposed(data: DataFile, toml: Path, table: dict[int, str], palettes: Palettes) -> Interpretation:
    labels = {str(value): name for value, name in table.items()}
    return _meaning_of(data.model_copy(update={"names": None, "labels": labels}), toml, palettes)


def _meaning_of(proposal: DataFile, toml: Path, palettes: Palettes = "index") -> Interpretation:
    """Return the interpretation of masks by a proposed description."""
    if proposal.palette is not None and len(proposal.palette) != len(class_names(proposal, toml) or ()):
        proposal = proposal.model_copy(update={"palette": None})
    names, labels = class_names(proposal, toml), label_map(proposal, toml)
    assert names is not None
    classes = build_classes(proposal, toml, names)
    return Interpretation(classes, labels, proposal.colors is not None, palettes, proposal)
