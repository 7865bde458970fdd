"""Kinds of findings: their severity, title and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

Severity = Literal["fault", "warning"]


class Kind(NamedTuple):
    """A kind of finding."""

    severity: Severity
    """A fault prevents training or spoils its result."""
    title: str
    remedy: str


@dataclass(frozen=True)
class Finding:
    """A fault or warning about a data set.

    Args:
        kind: key of `KINDS`.
        files: affected files, relative to the folder; empty if it concerns the whole data set.
        detail: what was got, in addition to the title of the kind.
    """

    kind: str
    files: tuple[str, ...] = ()
    detail: str = ""


KINDS: dict[str, Kind] = {
    "data-file": Kind(
        "fault", "a description that cannot be used", "correct it, or move data.toml away and check again"
    ),
    "no-images": Kind(
        "fault", "a split without images", "add images and masks, or name their folder in data.toml"
    ),
    "annotations": Kind("fault", "COCO annotations that cannot be used", "export them again"),
    "unclear-entry": Kind(
        "fault",
        "images that several entries of the annotations may mean",
        "write the whole path into file_name, or rename the images",
    ),
    "unreadable-image": Kind("fault", "images that cannot be read", "copy them again or remove them"),
    "unreadable-mask": Kind("fault", "masks that cannot be read", "export them again"),
    "missing-mask": Kind("fault", "images without a mask", "draw one, or move the image to unlabeled/"),
    "mask-name": Kind("fault", "masks named otherwise than their image", "rename the mask as its image"),
    "two-files": Kind("fault", "several files of one name", "rename or remove all but one"),
    "unlistable-name": Kind(
        "fault", "names of two lines or not in UTF-8, which no list can hold", "rename the images and masks"
    ),
    "lossy-mask": Kind(
        "fault", "masks in a format that changes values", "save them as PNG from the original labels"
    ),
    "transparent-mask": Kind(
        "fault",
        "masks with transparent and visible pixels of one color, which are read as one class",
        "save them as 8-bit RGB, with another color where they are transparent",
    ),
    "image-mode": Kind(
        "fault",
        "images of another mode than 8-bit RGB, gray or palette",
        "declare channels and dtype in data.toml, or convert them to 8-bit RGB",
    ),
    "image-format": Kind(
        "fault",
        "images of another number of channels or depth than declared",
        "convert them, or correct channels and dtype in data.toml",
    ),
    "mask-mode": Kind(
        "fault",
        "masks of another mode than the others or than can be read",
        "save them as 8-bit index PNG, or give masks in color a table of [colors] in data.toml",
    ),
    "palettes-differ": Kind(
        "fault",
        "masks with palettes that differ, so that their indices mean different classes",
        "list the colors of the classes under [colors] in data.toml, or save the masks with one palette",
    ),
    "size-mismatch": Kind(
        "fault", "masks of another size than their image", "export them at the image's size"
    ),
    "exif-rotated": Kind(
        "fault", "images turned by EXIF, whose masks are not", "turn the mask, or save the image upright"
    ),
    "binary-masks": Kind(
        "fault",
        "masks of 0 and 255, where 255 means ignore",
        "give 255 a class under [labels] in data.toml, or list it under ignore if it has none",
    ),
    "mixed-values": Kind(
        "fault",
        "masks of 0 and 255 among masks of class numbers, where 255 means ignore",
        "save all masks with the same values, or give 255 a class under [labels] in data.toml; list it under "
        "ignore if it has none",
    ),
    "mixed-modes": Kind(
        "fault",
        "1-bit masks among masks of more values, so that white is 1 or 255",
        "save them as 8-bit index PNG like the others",
    ),
    "hidden-class": Kind(
        "fault",
        "255, which means ignore, covers most of what is not background",
        "give 255 a class under [labels] in data.toml, or write ignore = [255] there if it has none",
    ),
    "sparse-values": Kind(
        "fault",
        "mask values that leave out most labels",
        "give each value a class under [labels] in data.toml, or save the labels as 0..K-1",
    ),
    "color-masks": Kind(
        "fault",
        "masks in colors, whose classes are not known",
        "give each color a class under [colors] in data.toml",
    ),
    "unknown-value": Kind(
        "fault",
        "mask values that are no class",
        "add the class to data.toml, or the value to its ignore; unpack a published data set again",
    ),
    "unknown-color": Kind(
        "fault", "mask colors that are no class", "add them to colors or ignore in data.toml"
    ),
    "soft-masks": Kind(
        "fault",
        "masks with edges between classes or of a picture",
        "export hard labels, without anti-aliasing",
    ),
    "one-class": Kind("fault", "masks that show a single class", "label at least two classes"),
    "no-labels": Kind("fault", "a split in which no pixel has a class", "label its images"),
    "leakage": Kind("fault", "images of val that are in train or unlabeled too", "remove them from one side"),
    "near-leakage": Kind(
        "warning", "images of val that nearly equal one of train or unlabeled", "look at them; remove copies"
    ),
    "duplicates": Kind("warning", "files that are the same image", "remove all but one"),
    "near-duplicates": Kind("warning", "images that nearly equal each other", "look at them; remove copies"),
    "exif-unclear": Kind(
        "warning", "images turned by EXIF, whose masks may not be", "look at them; save the image upright"
    ),
    "orphan-mask": Kind(
        "warning", "masks without an image, which are not used", "add the image or remove the mask"
    ),
    "more-pages": Kind(
        "warning",
        "files of several pages or frames, of which only the first is used",
        "save the others as files of their own",
    ),
    "unused-parents": Kind(
        "warning", "supercategories without annotations, which are no classes", "annotate some if they are"
    ),
    "skipped": Kind("warning", "annotations without a usable segmentation, which are skipped", "draw them"),
    "overlaps": Kind(
        "warning",
        "annotated objects of several classes that overlap",
        'look at them; the smaller is on top, with order = "file" under [coco] in data.toml the later',
    ),
    "area-differs": Kind(
        "warning",
        "annotations whose drawn area is not the one in the file, as of holes that are polygons of their own",
        "look at them; export such regions as run lengths",
    ),
    "other-file": Kind("warning", "files that are not used", "convert or remove them"),
    "hidden-folder": Kind(
        "warning", "hidden folders, which are not entered", "move their images, or remove them"
    ),
    "linked-again": Kind(
        "warning", "links to folders that are listed already, which are not entered", "remove the links"
    ),
    "all-background": Kind("warning", "masks of label 0 alone", "look whether they were forgotten"),
    "all-ignored": Kind("warning", "masks that are ignored throughout", "label or remove them"),
    "mostly-ignored": Kind(
        "warning",
        "255, which means ignore, covers more than all classes but background",
        "look whether 255 is a class; write ignore = [255] in data.toml if it is not",
    ),
    "wide-void": Kind(
        "warning",
        "masks of 0 and 255 in which 255, which means ignore, covers much more than in others",
        "look whether 255 is a class there",
    ),
    "absent-class": Kind("warning", "classes that a split does not show", "move images that show them"),
    "blank-image": Kind("warning", "images of a single color", "remove them"),
    "tiny-image": Kind("warning", "tiny images", "remove them, or use larger ones"),
    "huge-image": Kind("warning", "huge images, slow to read", "cut them into tiles"),
    "extreme-aspect": Kind("warning", "images of extreme proportions", "cut them, or remove them"),
}


OF_MANY = frozenset({"binary-masks", "sparse-values", "color-masks"})
"""Kinds of findings that concern many masks at once."""


UNKNOWN_CLASSES = frozenset(
    {
        "binary-masks",
        "sparse-values",
        "color-masks",
        "palettes-differ",
        "one-class",
        "mask-mode",
        "soft-masks",
        "lossy-mask",
        "transparent-mask",
    }
)
"""Kinds that leave the classes of the masks undetermined."""
OF_FILES = frozenset(
    {
        "mask-mode",
        "lossy-mask",
        "transparent-mask",
        "unknown-value",
        "unknown-color",
        "soft-masks",
        "unreadable-image",
        "unreadable-mask",
        "image-mode",
        "size-mismatch",
        "exif-rotated",
    }
)
"""Kinds that concern a single file."""
OF_LISTING = frozenset({"other-file", "hidden-folder", "linked-again"})
"""Kinds about files that are skipped."""
MOST_NAMED = 3
"""Number of files named in a message."""


def severity(finding: Finding) -> Severity:
    """Return the severity of a finding."""
    return KINDS[finding.kind].severity


def faults(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Return the findings that are faults."""
    return (finding for finding in findings if severity(finding) == "fault")


def message(
    finding: Finding, spec: str, *, root: Path | None = None, has_proposal: bool = False, others: int = 0
) -> str:
    """Return a finding as one line: what was got, what to do.

    Args:
        finding: finding to describe.
        spec: spec of the data set.
        root: folder that its files are relative to; None if they are named as in the line.
        has_proposal: whether `zoo data check` can propose a `data.toml`.
        others: number of further findings of this kind.
    """
    place = spec
    if finding.kind in OF_FILES:
        place = finding.files[0] if root is None else str(root / finding.files[0])
    kind, proposes = KINDS[finding.kind], " and proposes a data.toml" if has_proposal else ""
    files = finding.files
    named = ", ".join(files if len(files) <= MOST_NAMED else (*files[: MOST_NAMED - 1], "...", files[-1]))
    got = finding.detail or (f"{kind.title} ({named})" if named else kind.title)
    if finding.kind not in OF_FILES and finding.kind not in OF_MANY and named and named not in got:
        got = f"{kind.title} ({named}: {finding.detail})"
    more = f", and {others} more" if others else ""
    return f"{place}: got {got}{more}: {kind.remedy} (zoo data check {quote(spec)} shows all{proposes})"


def grouped(findings: list[Finding]) -> list[dict[str, Any]]:
    """Return the findings by kind, faults first, in the format of `--json`."""
    return [
        {
            "kind": name,
            **kind._asdict(),
            "count": len(found) if len(found) > 1 or name not in OF_MANY else len(found[0].files),
            "findings": [{"files": list(one.files), "detail": one.detail} for one in found],
        }
        for name, kind in sorted(KINDS.items(), key=lambda item: item[1].severity != "fault")
        if (found := [finding for finding in findings if finding.kind == name])
    ]
