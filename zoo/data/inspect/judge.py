"""What is wrong with the files of one image, and how many pixels of each label its mask shows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from zoo.classes import IGNORE
from zoo.data.inspect.facts import READABLE
from zoo.data.inspect.findings import Finding
from zoo.data.inspect.meaning import is_soft
from zoo.data.labels import unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoo.data.data_file import DataFile
    from zoo.data.inspect.facts import ImageFacts, MaskFacts
    from zoo.data.inspect.meaning import Meaning

TINY_PX = 32
"""Images with a shorter side than this are tiny."""
HUGE_PIXELS = 50_000_000
EXTREME_ASPECT = 5.0
UPRIGHT = 1
MOST_SHOWN = 5


def judge_image(name: str, facts: ImageFacts) -> Iterator[Finding]:
    """Yield what is wrong with an image on its own.

    Args:
        name: of its file.
        facts: what the file says.
    """
    if facts.error:
        yield Finding("unreadable-image", (name,), facts.error)
        return
    width, height = facts.size
    size = f"{width}x{height} pixels"
    if facts.mode not in READABLE:
        yield Finding("image-mode", (name,), f"mode {facts.mode}")
    if facts.is_blank:
        yield Finding("blank-image", (name,))
    if min(width, height) < TINY_PX:
        yield Finding("tiny-image", (name,), size)
    if width * height > HUGE_PIXELS:
        yield Finding("huge-image", (name,), size)
    if max(width, height) > EXTREME_ASPECT * min(width, height):
        yield Finding("extreme-aspect", (name,), size)


def judge_pair(name: str, image: ImageFacts, mask: MaskFacts) -> Iterator[Finding]:
    """Yield what is wrong with the sizes of an image and its mask.

    Args:
        name: of the mask.
        image: a readable image.
        mask: a readable mask.
    """
    is_turned = image.orientation != UPRIGHT
    if is_turned and image.size == image.stored_size == mask.size:
        yield Finding("exif-unclear", (name,), f"EXIF orientation {image.orientation}")
    elif is_turned and image.size != mask.size == image.stored_size:
        got = f"{mask.size[0]}x{mask.size[1]} pixels"
        yield Finding(
            "exif-rotated", (name,), f"{got}, its image is {image.size[0]}x{image.size[1]} when upright"
        )
    elif image.size != mask.size:
        sizes = [f"{width}x{height}" for width, height in (mask.size, image.size)]
        yield Finding("size-mismatch", (name,), f"{sizes[0]} pixels, its image has {sizes[1]}")


def judge_mask(name: str, mask: MaskFacts, meaning: Meaning, data: DataFile) -> Iterator[Finding]:
    """Yield what is wrong with a mask on its own.

    Args:
        name: of its file.
        mask: what the file says.
        meaning: of its values or colors.
        data: the contents of `data.toml`.
    """
    if mask.error:
        yield Finding("unreadable-mask", (name,), mask.error)
        return
    if is_soft(mask, data):
        many = f"{len(mask.pixels)} values" if mask.pixels else "more than 256 colors"
        yield Finding("soft-masks", (name,), many)
        return
    if mask.pixels is None or mask.is_color != meaning.is_color:
        yield Finding("mask-mode", (name,), f"mode {mask.mode}")
        return
    unknown = [code for code in mask.pixels if meaning.label_of(code) is None]
    if unknown:
        yield Finding(*_unknown(name, unknown, meaning))
    shown = set(labels_of(mask, meaning))
    if shown == {IGNORE}:
        yield Finding("all-ignored", (name,))
    elif not unknown and shown - {IGNORE} == {0}:
        yield Finding("all-background", (name,))


def labels_of(mask: MaskFacts, meaning: Meaning) -> Counter[int]:
    """Return the pixels of each label that a mask shows."""
    pixels: Counter[int] = Counter()
    if mask.is_color == meaning.is_color:
        for code, count in (mask.pixels or {}).items():
            label = meaning.label_of(code)
            if label is not None:
                pixels[label] += count
    return pixels


def _unknown(name: str, codes: list[int], meaning: Meaning) -> tuple[str, tuple[str, ...], str]:
    if meaning.is_color:
        shown = ", ".join(str(list(unpack(code))) for code in codes[:MOST_SHOWN])
        return "unknown-color", (name,), f"the color {shown}"
    values = ", ".join(map(str, codes[:MOST_SHOWN]))
    return "unknown-value", (name,), f"the value {values}, of {len(meaning.classes)} classes"
