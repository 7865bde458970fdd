"""HTML page of an inspection, self-contained: no other files, no hosts, no scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.data.inspect.findings import grouped
from zoo.data.inspect.layout import escaped
from zoo.data.inspect.pictures import file_picture, image_picture, mask_picture, overlay_picture
from zoo.data.inspect.proposal import proposal_text
from zoo.pages.html import render

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zoo.classes import Color
    from zoo.data.inspect.inspection import Inspection
    from zoo.data.inspect.layout import Item

MOST_EXAMPLES = 6
"""Number of examples of each kind of finding."""
MOST_FILES = 4
"""Number of files of an example: groups of duplicates may be large."""
MOST_LISTED = 200
"""Number of findings of a kind that are listed below its examples."""
GRID = {"train": 12, "val": 6}


def html(inspection: Inspection) -> str:
    """Return the inspection as an HTML page."""
    groups = grouped(inspection.findings)
    items = _by_name(inspection)
    proposal = inspection.meaning.proposal
    return render(
        "data/inspect/check.html",
        title=f"Check of {inspection.spec}",
        verdict=_verdict(groups, len(inspection.items)),
        groups=[group | _shown(group, items, inspection) for group in groups],
        counts=list(_counts(inspection)),
        splits=list(GRID),
        classes=list(_classes(inspection)),
        overlays=list(_overlays(inspection)),
        proposal="" if proposal is None else proposal_text(proposal),
    )


def _verdict(groups: Sequence[dict[str, Any]], images: int) -> tuple[str, str]:
    """Return the overall result, as a style of the page and as text."""
    faults = sum(group["severity"] == "fault" for group in groups)
    warnings = len(groups) - faults
    if faults:
        return "bad", f"{faults} kinds of faults would spoil training; {warnings} of warnings."
    if warnings:
        return "warning", f"No faults in {images} images; {warnings} kind{'s' * (warnings != 1)} of warnings."
    return "good", f"Nothing found in {images} images."


def _counts(inspection: Inspection) -> Iterator[tuple[str, ...]]:
    for split, found in inspection.counts().items():
        counts = (f"{found[name]:,}" for name in ("images", "masks"))
        yield split, *counts, *(_most(found[name]) for name in ("sizes", "image_modes", "mask_modes"))


def _most(counted: dict[str, int]) -> str:
    shown = [f"{name} ({count})" for name, count in list(counted.items())[:3]]
    return ", ".join(shown) + (f" and {len(counted) - 3} more" if len(counted) > 3 else "")


def _classes(inspection: Inspection) -> Iterator[tuple[str, Color, list[tuple[float, str]]]]:
    """Yield name and color of each class, and its share of pixels and number of images in each split."""
    palette = [*inspection.meaning.classes.palette, (255, 255, 255)]
    for color, row in zip(palette, inspection.classes(), strict=True):
        yield row["name"], color, [(row[f"{split}_share"], f"{row[f'{split}_images']:,}") for split in GRID]


def _shown(group: dict[str, Any], items: dict[str, Item], inspection: Inspection) -> dict[str, Any]:
    """Return the section of a kind of finding: title, remedy, examples with pictures, and a list of all."""
    findings = group["findings"]
    examples = [(one["files"], one["detail"]) for one in findings[:MOST_EXAMPLES]]
    if len(findings) == 1 and len(findings[0]["files"]) > MOST_FILES:  # one finding about many masks
        examples = [([file], "") for file in findings[0]["files"][:MOST_EXAMPLES]]
    lines = [_text(one) for one in findings[:MOST_LISTED]]
    more = len(findings) - MOST_LISTED
    return {
        "title": _sentence(group["title"]),
        "remedy": f"{_sentence(group['remedy'])}.",
        "examples": [
            (list(_pictures(files, items, inspection)), ", ".join(files[:MOST_FILES]) or "All", detail)
            for files, detail in examples
        ],
        "lines": [*lines, f"and {more} more: --json lists all"] if more > 0 else lines,
    }


def _text(finding: dict[str, Any]) -> str:
    files = finding["files"]
    shown = ", ".join(files[:20]) + (f" and {len(files) - 20} more" if len(files) > 20 else "")
    return ": ".join(filter(None, (shown, finding["detail"])))


def _pictures(
    files: Sequence[str], items: dict[str, Item], inspection: Inspection
) -> Iterator[tuple[str | None, str]]:
    """Yield picture and kind of an example's images, of the mask if it has one image, and of other files."""
    found = list({items[file].image: items[file] for file in files[:MOST_FILES] if file in items}.values())
    for item in found:
        yield image_picture(item, inspection.format), "image"
    if len(found) == 1 and found[0].split != "unlabeled":
        yield mask_picture(found[0], inspection.meaning), "mask"
    for file in files[:MOST_FILES]:
        if file not in items:
            yield file_picture(inspection.root / file), "file"


def _overlays(inspection: Inspection) -> Iterator[tuple[str, str]]:
    """Yield overlays of masks on images, sampled evenly from each split, with their names."""
    for split, most in GRID.items():
        found = [item for item in inspection.items if item.split == split and item.mask is not None]
        for item in found[:: max(1, -(-len(found) // most))]:
            picture = overlay_picture(item, inspection.meaning, inspection.format)
            if picture is not None:
                yield picture, f"{split}: {escaped(item.image.name)}"


def _by_name(inspection: Inspection) -> dict[str, Item]:
    """Return the item of each file, by its name in findings."""
    found: dict[str, Item] = {}
    for item in inspection.items:
        for path in (item.image, item.mask if item.drawing is None else None):
            if path is not None:
                found[inspection.name(path)] = item
        if item.drawing is not None:
            found[item.drawing.where] = item
    return found


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
