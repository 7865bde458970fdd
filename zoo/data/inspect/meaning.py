"""What the masks of a folder mean: as its `data.toml` says, else as their values or colors suggest."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from zoo.classes import IGNORE, Classes
from zoo.data.data_file import DataFile, build_classes, class_names, label_map
from zoo.data.inspect.findings import Finding
from zoo.data.labels import unpack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zoo.data.inspect.facts import MaskFacts
    from zoo.data.labels import LabelMap

MOST_VALUES = 64
"""A mask with more values than this, none of them named, shows soft edges or a picture."""
SPARSE = 2
"""Values are sparse if the labels up to the highest are more than so many times as many."""
VOID = (224, 224, 192)
"""The color of PASCAL VOC's borders."""


class Meaning(NamedTuple):
    """What masks mean."""

    classes: Classes
    labels: LabelMap | None
    """None if the values are the labels."""
    is_color: bool
    """Whether masks are colors rather than values."""
    proposal: DataFile | None = None
    """What `data.toml` should say, None if it says enough or nothing can be proposed."""
    findings: tuple[Finding, ...] = ()

    def label_of(self, code: int) -> int | None:
        """Return the label of a value or color, None if it has none."""
        if self.labels is None:
            return code if code < len(self.classes) or code == IGNORE else None
        label = dict(self.labels.codes).get(code)
        return IGNORE if label is None and self.labels.unknown == "ignore" else label


def is_soft(mask: MaskFacts, data: DataFile) -> bool:
    """Return whether a mask has so many values or colors that they cannot be classes."""
    if mask.is_color:
        return mask.pixels is None
    is_named = data.names is not None or data.labels is not None
    return not is_named and mask.mode != "COCO" and len(mask.pixels or ()) > MOST_VALUES


def find_meaning(data: DataFile, toml: Path, masks: Sequence[tuple[str, MaskFacts]]) -> Meaning:
    """Return what the masks of files mean.

    Args:
        data: the contents of `data.toml`.
        toml: its file, for messages.
        masks: of each readable mask its file and its facts.

    Raises:
        DatasetError: `data.toml` contradicts itself.
    """
    labels, names = label_map(data, toml), class_names(data, toml)
    hard = [(name, mask) for name, mask in masks if mask.pixels and not is_soft(mask, data)]
    if labels is not None and names is not None:
        return Meaning(build_classes(data, toml, names), labels, labels.kind == "color")
    colored = [(name, mask) for name, mask in hard if mask.is_color]
    if 2 * len(colored) > len(hard):
        return _of_colors(data, toml, colored)
    return _of_values(data, toml, [(name, mask) for name, mask in hard if not mask.is_color], labels)


def _of_values(
    data: DataFile, toml: Path, masks: Sequence[tuple[str, MaskFacts]], labels: LabelMap | None
) -> Meaning:
    """Return the meaning of index masks without a table."""
    names = class_names(data, toml)
    images = Counter(value for _, mask in masks for value in mask.pixels or () if value not in data.ignore)
    values = sorted(images)
    if IGNORE in values and set(values) <= {0, IGNORE} and labels is None:
        chosen = names if names and len(names) == 2 else ("background", "foreground")
        return _proposed(
            data, toml, dict(zip((0, IGNORE), chosen, strict=True)), _find("binary-masks", masks)
        )
    named = [value for value in values if value != IGNORE]
    if names is None and named and named[-1] + 1 > SPARSE * len(named):
        shown = ", ".join(f"{value} ({images[value]})" for value in values[:20])
        table = {value: f"class_{label}" for label, value in enumerate(values)}
        rare = sorted(masks, key=lambda item: min(images[value] for value in item[1].pixels or (0,)))
        return _proposed(
            data,
            toml,
            table,
            _find("sparse-values", rare, f"values, and the masks that hold them: {shown}"),
        )
    proposal = None
    if names is None:
        names = tuple(f"class_{label}" for label in range(max([*named, 1]) + 1))
        proposal = data.model_copy(update={"names": list(names)}) if len(named) > 1 else None
    return Meaning(build_classes(data, toml, names), labels, is_color=False, proposal=proposal)


def _of_colors(data: DataFile, toml: Path, masks: Sequence[tuple[str, MaskFacts]]) -> Meaning:
    """Return the meaning of color masks without a table: black is the background, the rest by area."""
    area: Counter[int] = Counter()
    for _, mask in masks:
        area.update(mask.pixels)
    colors = [unpack(code) for code in sorted(area, key=lambda code: (code != 0, -area[code], code))]
    listed = [color for color in colors if color != VOID]
    finding = _find("color-masks", masks, f"colors: {', '.join(str(list(color)) for color in colors[:12])}")
    if not 2 <= len(listed) < IGNORE:
        classes = Classes.of(tuple(f"class_{label}" for label in range(2)))
        return Meaning(classes, None, is_color=True, findings=(finding,))
    names = data.names or [
        "background" if color == (0, 0, 0) else f"class_{k}" for k, color in enumerate(listed)
    ]
    if len(names) != len(listed):
        names = [f"class_{label}" for label in range(len(listed))]
    update = {
        "names": None,
        "colors": {name: list(color) for name, color in zip(names, listed, strict=True)},
        "ignore": [list(VOID)] if VOID in colors else [],
    }
    return _meaning_of(data.model_copy(update=update), toml, finding)


def _proposed(data: DataFile, toml: Path, table: dict[int, str], finding: Finding) -> Meaning:
    labels = {str(value): name for value, name in table.items()}
    return _meaning_of(data.model_copy(update={"names": None, "labels": labels}), toml, finding)


def _meaning_of(proposal: DataFile, toml: Path, finding: Finding) -> Meaning:
    if proposal.palette is not None and len(proposal.palette) != len(
        proposal.labels or proposal.colors or ()
    ):
        proposal = proposal.model_copy(update={"palette": None})
    names, labels = class_names(proposal, toml), label_map(proposal, toml)
    assert names is not None
    classes = build_classes(proposal, toml, names)
    return Meaning(classes, labels, proposal.colors is not None, proposal, (finding,))


def _find(kind: str, masks: Sequence[tuple[str, MaskFacts]], detail: str = "") -> Finding:
    """Return a finding about some masks, but for those it does not concern."""
    files = [name for name, mask in masks if kind != "binary-masks" or IGNORE in (mask.pixels or {})]
    return Finding(kind, tuple(files), detail)
