"""A check as one HTML page that needs nothing else: no other file, no host, no script."""

from __future__ import annotations

from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

from zoo.data.inspect.findings import grouped
from zoo.data.inspect.pictures import file_picture, image_picture, mask_picture, overlay_picture
from zoo.data.inspect.proposal import proposal_text
from zoo.pages.html import table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from zoo.data.inspect.inspection import Inspection
    from zoo.data.inspect.layout import Item

PAGE = "check.html"
MOST_EXAMPLES = 6
"""Of a kind of finding."""
MOST_FILES = 4
"""Of an example: duplicates may be many."""
MOST_LISTED = 200
"""Files of a kind, named below its examples."""
GRID = {"train": 12, "val": 6}


def html(inspection: Inspection) -> str:
    """Return the whole check as one page."""
    page = Template((resources.files("zoo.data.inspect") / PAGE).read_text(encoding="utf-8"))
    groups = grouped(inspection.findings)
    items = _by_name(inspection)
    return page.substitute(
        title=escape(f"Check of {inspection.spec}"),
        verdict=_verdict(groups, len(inspection.items)),
        contents="".join(_line(group) for group in groups),
        counts=_counts(inspection),
        classes=_classes(inspection),
        findings=_findings(groups, items, inspection),
        grid=_grid(inspection),
        proposal=_proposal(inspection),
    )


def _verdict(groups: Sequence[dict[str, Any]], images: int) -> str:
    faults = sum(group["severity"] == "fault" for group in groups)
    warnings = len(groups) - faults
    if faults:
        return f'<p class="bad">{faults} kinds of faults would spoil training; {warnings} of warnings.</p>'
    if warnings:
        kinds = f"{warnings} kind{'s' * (warnings != 1)} of warnings"
        return f'<p class="warning">No faults in {images} images; {kinds}.</p>'
    return f'<p class="good">Nothing found in {images} images.</p>'


def _line(group: dict[str, Any]) -> str:
    """Return the entry of a kind in the list on top of the page."""
    return (
        f'<li class="{group["severity"]}"><a href="#{group["kind"]}">{escape(_sentence(group["title"]))}</a>'
        f" {_number(group)}</li>"
    )


def _number(group: dict[str, Any]) -> str:
    return f"<b>{group['count']}</b>"


def _counts(inspection: Inspection) -> str:
    rows = [
        (
            split,
            f"{found['images']:,}",
            f"{found['masks']:,}",
            _most(found["sizes"]),
            _most(found["image_modes"]),
            _most(found["mask_modes"]),
        )
        for split, found in inspection.counts().items()
    ]
    return table(("split", "images", "masks", "sizes", "images are", "masks are"), rows)


def _most(counted: dict[str, int]) -> str:
    shown = [f"{name} ({count})" for name, count in list(counted.items())[:3]]
    return ", ".join(shown) + (f" and {len(counted) - 3} more" if len(counted) > 3 else "")


def _classes(inspection: Inspection) -> str:
    palette = [*inspection.meaning.classes.palette, (255, 255, 255)]
    rows = ""
    for color, row in zip(palette, inspection.classes(), strict=True):
        cells = "".join(
            f'<td><div class="track"><i style="width:{100 * row[f"{split}_share"]:.2f}%"></i></div></td>'
            f"<td>{100 * row[f'{split}_share']:.2f} %</td><td>{row[f'{split}_images']:,}</td>"
            for split in GRID
        )
        swatch = f'<i class="swatch" style="background:rgb{color}"></i>'
        rows += f"<tr><th>{swatch}{escape(row['name'])}</th>{cells}</tr>"
    heads = "".join(f'<th class="wide">{split}</th><th>pixels</th><th>images</th>' for split in GRID)
    return (
        f'<div class="scroll"><table><thead><tr><th>class</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _findings(groups: Sequence[dict[str, Any]], items: dict[str, Item], inspection: Inspection) -> str:
    sections = "".join(_group(group, items, inspection) for group in groups)
    return f"<section><h2>Findings</h2>{sections}</section>" if sections else ""


def _group(group: dict[str, Any], items: dict[str, Item], inspection: Inspection) -> str:
    """Return the section of a kind of finding: what to do, examples with pictures, all files."""
    examples = "".join(
        _example(one["files"], one["detail"], items, inspection) for one in _examples(group["findings"])
    )
    lines = [_text(one) for one in group["findings"]]
    more = [f"and {len(lines) - MOST_LISTED} more: --json lists all"] if len(lines) > MOST_LISTED else []
    listed = "".join(f"<li>{escape(line)}</li>" for line in (*lines[:MOST_LISTED], *more))
    return (
        f'<section class="{group["severity"]}" id="{group["kind"]}"><h3>{escape(_sentence(group["title"]))} '
        f"{_number(group)}</h3><p>{escape(_sentence(group['remedy']))}.</p>"
        f'<div class="examples">{examples}</div>'
        f"<details><summary>all in words</summary><ul>{listed}</ul></details></section>"
    )


def _examples(findings: Sequence[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Return the findings with pictures: one about many masks gives an example of each of some."""
    if len(findings) == 1 and len(findings[0]["files"]) > MOST_FILES:
        return [{"files": [file], "detail": ""} for file in findings[0]["files"][:MOST_EXAMPLES]]
    return findings[:MOST_EXAMPLES]


def _text(finding: dict[str, Any]) -> str:
    files = finding["files"]
    shown = ", ".join(files[:20]) + (f" and {len(files) - 20} more" if len(files) > 20 else "")
    return ": ".join(filter(None, (shown, finding["detail"])))


def _example(files: Sequence[str], detail: str, items: dict[str, Item], inspection: Inspection) -> str:
    found = list({items[file].image: items[file] for file in files[:MOST_FILES] if file in items}.values())
    pictures = "".join(_picture(image_picture(item), "image") for item in found)
    if len(found) == 1 and found[0].split != "unlabeled":
        pictures += _picture(mask_picture(found[0], inspection.meaning), "mask")
    others = [file for file in files[:MOST_FILES] if file not in items]
    pictures += "".join(_picture(file_picture(inspection.root / file), "file") for file in others)
    caption = escape(", ".join(files[:MOST_FILES])) or "All"
    note = f"<br>{escape(detail)}" if detail else ""
    return f'<figure><div class="pair">{pictures}</div><figcaption>{caption}{note}</figcaption></figure>'


def _picture(source: str | None, name: str) -> str:
    if source is None:
        return f'<span class="none">no {name} to show</span>'
    return f'<img src="{source}" alt="{name}" loading="lazy">'


def _grid(inspection: Inspection) -> str:
    """Return masks over images, evenly out of each split."""
    figures = []
    for split, most in GRID.items():
        found = [item for item in inspection.items if item.split == split and item.mask is not None]
        for item in found[:: max(1, -(-len(found) // most))]:
            source = overlay_picture(item, inspection.meaning)
            if source is not None:
                name = escape(f"{split}: {item.image.name}")
                figures.append(f"<figure>{_picture(source, name)}<figcaption>{name}</figcaption></figure>")
    return (
        f'<section><h2>Masks over images</h2><div class="grid">{"".join(figures)}</div></section>'
        if figures
        else ""
    )


def _proposal(inspection: Inspection) -> str:
    proposal = inspection.meaning.proposal
    if proposal is None:
        return ""
    return f"<section><h2>Proposed data.toml</h2><pre>{escape(proposal_text(proposal))}</pre></section>"


def _by_name(inspection: Inspection) -> dict[str, Item]:
    """Return the item of each file, by the name that findings use."""
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
