"""Checks of images and masks, on their own, in pairs and together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from zoo.classes import IGNORE
from zoo.data.formats.palettes import find_palettes
from zoo.data.inspect.findings import Finding
from zoo.data.inspect.hidden import find_hidden
from zoo.data.inspect.meaning import is_soft
from zoo.data.labels import unpack
from zoo.data.masks import MOST_COLORS, in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from zoo.data.data_file import DataFile
    from zoo.data.inspect.facts import ImageFacts
    from zoo.data.inspect.meaning import Interpretation, Seen
    from zoo.data.masks import MaskFacts, NamedMask

TINY_PX = 32
"""Smallest side of an image that is not reported as tiny."""
HUGE_PIXELS = 50_000_000
EXTREME_ASPECT = 5.0
UPRIGHT = 1
MOST_SHOWN = 5


def judge_image(name: str, facts: ImageFacts) -> Iterator[Finding]:
    """Yield the findings about a single image.

    Args:
        name: name of its file.
        facts: facts about the file.
    """
    if facts.error:
        yield Finding("unreadable-image", (name,), f"a file that cannot be read ({facts.error})")
        return
    if facts.other_format:
        yield Finding("image-format", (name,), facts.other_format)
        return
    yield from _of_pages(name, facts.pages)
    width, height = facts.size
    size = f"{width}x{height} pixels"
    if not facts.is_readable:
        yield Finding("image-mode", (name,), f"an image of mode {facts.mode}")
    if facts.is_blank:
        yield Finding("blank-image", (name,))
    if min(width, height) < TINY_PX:
        yield Finding("tiny-image", (name,), size)
    if width * height > HUGE_PIXELS:
        yield Finding("huge-image", (name,), size)
    if max(width, height) > EXTREME_ASPECT * min(width, height):
        yield Finding("extreme-aspect", (name,), size)


def judge_pair(name: str, image: ImageFacts, mask: MaskFacts) -> Iterator[Finding]:
    """Yield the findings about the sizes of an image and its mask.

    Args:
        name: name of the mask.
        image: facts about a readable image.
        mask: facts about a readable mask.
    """
    is_turned = image.orientation != UPRIGHT
    if is_turned and image.size == image.stored_size == mask.size:
        yield Finding("exif-unclear", (name,), f"EXIF orientation {image.orientation}")
    elif is_turned and image.size != mask.size == image.stored_size:
        got = f"a mask of {mask.size[0]}x{mask.size[1]} pixels"
        yield Finding(
            "exif-rotated", (name,), f"{got}, expected {image.size[0]}x{image.size[1]} as its upright image"
        )
    elif image.size != mask.size:
        got, expected = (f"{width}x{height}" for width, height in (mask.size, image.size))
        yield Finding("size-mismatch", (name,), f"a mask of {got} pixels, expected {expected} as its image")


def judge_mask(name: str, mask: MaskFacts, meaning: Interpretation, data: DataFile) -> Iterator[Finding]:
    """Yield the findings about a single mask.

    Args:
        name: name of its file.
        mask: facts about the file.
        meaning: interpretation of its values or colors.
        data: contents of `data.toml`.
    """
    yield from _of_file(name, mask)
    if mask.error or mask.lossy:
        return
    if is_soft(mask, data):
        many = f"{len(mask.pixels)} values" if mask.pixels else f"more than {MOST_COLORS} colors"
        yield Finding("soft-masks", (name,), f"a mask of mode {mask.mode} with {many}")
        return
    seen = meaning.see(mask)
    is_guessed = meaning.is_color and data.colors is None
    if seen is None or (seen.unknown and is_guessed and not mask.is_color):
        if not mask.is_color or not meaning.is_color:  # or else too many colors to count, which are ignored
            yield Finding("mask-mode", (name,), _of_mode(mask, meaning))
        return
    if seen.unknown:
        yield _of_unknown(name, seen, meaning)
    shown = set(seen.labels)
    if shown == {IGNORE}:
        yield Finding("all-ignored", (name,))
    elif not seen.unknown and shown - {IGNORE} == {0}:
        yield Finding("all-background", (name,))


def judge_published(masks: Sequence[NamedMask], meaning: Interpretation, data: DataFile) -> Iterator[Finding]:
    """Yield the findings about the masks of a published data set, which are read by value or index.

    Args:
        masks: readable masks.
        meaning: published interpretation of the masks.
        data: description with the names of the classes.
    """
    palettes, conflict = find_palettes(masks, data)
    if conflict is not None:
        yield conflict
    elif palettes != "index":
        yield Finding("palettes-differ", (), "palettes of gray levels in place of the published ones")
    yield from find_hidden(masks, meaning, data)


def judge_together(masks: Sequence[NamedMask], meaning: Interpretation) -> Iterator[Finding]:
    """Yield a finding if the masks have fewer than two classes."""
    seen = [found.labels for mask in masks if (found := meaning.see(mask.facts))]
    labels = set().union(*seen) - {IGNORE}
    if seen and len(labels) < 2:
        got = f"label {next(iter(labels))} alone" if labels else "no label at all"
        yield Finding("one-class", (), f"masks of {got}")


def judge_drawn(masks: Sequence[NamedMask]) -> Iterator[Finding]:
    """Yield the findings about what annotations say and their masks do not show."""
    overlaps = {mask.name: mask.facts.overlap for mask in masks if mask.facts.overlap}
    areas = {mask.name: mask.facts.areas for mask in masks if mask.facts.areas}
    if overlaps:
        yield Finding(
            "overlaps", tuple(overlaps), f"{sum(overlaps.values())} pixels in {len(overlaps)} images"
        )
    if areas:
        yield Finding("area-differs", tuple(areas), f"{sum(areas.values())} regions in {len(areas)} images")


def with_example(finding: Finding, masks: Iterable[NamedMask], meaning: Interpretation) -> Finding:
    """Return a finding, with an example of a readable mask if it is about the mode of a mask."""
    for mask in masks if finding.kind == "mask-mode" else ():
        seen = meaning.see(mask.facts)
        if seen is not None and not seen.unknown:
            example = mask.in_words(seen.codes, is_color=seen.is_color)
            return replace(finding, detail=f"{finding.detail}, as {example}")
    return finding


def _of_file(name: str, mask: MaskFacts) -> Iterator[Finding]:
    """Yield the findings about the file of a mask, whatever its values mean."""
    if mask.error:
        yield Finding("unreadable-mask", (name,), f"a file that cannot be read ({mask.error})")
        return
    yield from _of_pages(name, mask.pages)
    if mask.lossy:
        yield Finding("lossy-mask", (name,), f"a mask in {mask.lossy}, which changes its values")
    if mask.see_through:
        shown = ", ".join(str(list(color)) for color in mask.see_through[:MOST_SHOWN])
        yield Finding("transparent-mask", (name,), f"transparent and visible pixels of the color {shown}")


def _of_pages(name: str, pages: int) -> Iterator[Finding]:
    if pages > 1:
        yield Finding("more-pages", (name,), f"{pages} pages")


def _of_mode(mask: MaskFacts, meaning: Interpretation) -> str:
    held = f" with the {in_words(mask.pixels or mask.others, is_color=mask.is_color)}"
    expected = "RGB, RGBA, LA, L, P or 1" if meaning.is_color else "L, P or 1"
    return f"a mask of mode {mask.mode}{held if mask.pixels or mask.others else ''}, expected {expected}"


def _of_unknown(name: str, seen: Seen, meaning: Interpretation) -> Finding:
    if seen.is_color:
        shown = ", ".join(str(list(unpack(code))) for code in seen.unknown[:MOST_SHOWN])
        return Finding("unknown-color", (name,), f"the color {shown}")
    expected = f"0..{len(meaning.classes) - 1} or 255 (ignore)"
    if meaning.labels is not None:
        expected = in_words((code for code, _ in meaning.labels.codes), is_color=False)
    got = ", ".join(map(str, seen.unknown[:MOST_SHOWN]))
    return Finding("unknown-value", (name,), f"the value {got}, expected {expected}")
