"""Pictures of masks: overlays with outlines, legends, and grids of images and masks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from zoo.classes import Classes, Color, Mask

    Picture = NDArray[np.uint8]

T = TypeVar("T", bound=np.generic)

PAPER: Color = (255, 255, 255)
INK: Color = (32, 33, 36)
FRAME: Color = (189, 193, 198)

SMALL = 480
"""Smallest side in pixels to which images are enlarged, and smallest width of a legend."""

CELL = 288
"""Width of a column of a triptych, in pixels."""

LEGEND = 3 * CELL + CELL // 6
"""Largest width of the legend of a grid, whose font scales with its width."""

HEADINGS = ("image", "truth", "prediction")


def overlay(image: Picture, mask: Mask, classes: Classes, alpha: float = 0.5) -> Picture:
    """Return the image blended with the colors of its mask, with thin lines between classes.

    Lines are white on one side and dark on the other, to be visible on any image.

    Black stands for the background in the palettes of VOC and of this project: such pixels show the image.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) class ids 0..K-1 or `IGNORE`.
        classes: classes with their colors.
        alpha: weight of the colors, 0..1.

    Returns:
        (H, W, 3) uint8.
    """
    colors = classes.colorize(mask)
    blend = np.asarray(Image.blend(Image.fromarray(image), Image.fromarray(colors), alpha))
    result = np.where(colors.any(axis=2, keepdims=True), blend, image)
    thickness = max(1, round(max(mask.shape) / 1000))
    flipped = np.s_[::-1, ::-1]
    result[boundaries(mask[flipped], thickness)[flipped]] = INK
    result[boundaries(mask, thickness)] = PAPER
    return result


def boundaries(mask: Mask, thickness: int = 1) -> NDArray[np.bool_]:
    """Return whether each pixel's class differs from that of a nearby pixel to its right or below.

    Args:
        mask: (H, W) class ids.
        thickness: thickness of the lines, in pixels.
    """
    lines = np.zeros(mask.shape, np.bool_)
    for distance in range(1, thickness + 1):
        lines[:-distance] |= mask[:-distance] != mask[distance:]
        lines[:, :-distance] |= mask[:, :-distance] != mask[:, distance:]
    return lines


def areas(mask: Mask) -> dict[int, float]:
    """Return the share of pixels (0..1) of each label in a mask, largest first."""
    counts = np.bincount(mask.ravel(), minlength=256)
    order = np.argsort(-counts, kind="stable")
    return {int(label): float(counts[label] / mask.size) for label in order if counts[label]}


def percent(share: float) -> str:
    """Return a share as a percentage that is 0 only for exactly zero.

    Example:
        >>> [percent(share) for share in (0.5, 0.00001, 0.0)]
        ['50.0%', '<0.1%', '0.0%']
    """
    return "<0.1%" if 0 < share < 0.001 else f"{share:.1%}"


def legend(classes: Classes, present: Mapping[int, float | None], width: int) -> Picture:
    """Return a legend with color, name and area of some classes, in as many lines as needed.

    Args:
        classes: names and colors of the classes.
        present: labels to show, in order, each with its share of pixels, 0..1, or None.
        width: width of the legend, in pixels.

    Returns:
        (h, width, 3) uint8.
    """
    font_px = min(96, max(13, round(width / 36)))
    font = ImageFont.load_default(size=font_px)
    pad, line, indent = font_px, round(font_px * 1.7), round(font_px * 1.5)
    room = width - 2 * pad - indent
    texts = [_shorten(*_entry(classes, *item), room, font.getlength) for item in present.items()]
    pitch = indent + pad + math.ceil(max(map(font.getlength, texts), default=0))
    columns = min(len(texts) or 1, max(1, (width - pad) // pitch))
    pitch = max(pitch, min(2 * pitch, (width - pad) // columns))
    strip = Image.new("RGB", (width, math.ceil(len(texts) / columns) * line + pad), PAPER)
    draw = ImageDraw.Draw(strip)
    for index, (label, text) in enumerate(zip(present, texts, strict=True)):
        left = pad + index % columns * pitch
        middle = pad / 2 + (index // columns + 0.5) * line
        swatch = (left, middle - font_px / 2, left + font_px, middle + font_px / 2)
        fill = classes.palette[label] if label < len(classes) else PAPER
        draw.rounded_rectangle(swatch, font_px / 5, fill, outline=FRAME, width=max(1, font_px // 16))
        draw.text((left + indent, middle), text, INK, font, anchor="lm")
    return np.array(strip)


def picture(image: Picture, mask: Mask, classes: Classes) -> Picture:
    """Return the overlay of an image above a legend of the classes in it; small images are enlarged.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) class ids 0..K-1 or `IGNORE`.
        classes: names and colors of the classes.

    Returns:
        (H', W', 3) uint8, W' >= `SMALL`.
    """
    factor = math.ceil(SMALL / max(mask.shape))
    top = overlay(_enlarge(image, factor), _enlarge(mask, factor), classes)
    width = max(SMALL, top.shape[1])
    return np.concatenate([_center(top, width), legend(classes, areas(mask), width)])


def triptych(rows: Sequence[tuple[Picture, Mask, Mask]], classes: Classes) -> Picture:
    """Return a grid of image, true mask and predicted mask under headings, above a legend.

    Args:
        rows: at least one (image (H, W, 3), truth (H, W), prediction (H, W)), all uint8, of any sizes.
        classes: names and colors of the classes.

    Returns:
        (h, w, 3) uint8.
    """
    return grid(HEADINGS, rows, classes)


def grid(headings: Sequence[str], rows: Sequence[tuple[Mask, ...]], classes: Classes) -> Picture:
    """Return a grid of images, each beside its masks, under headings, above a legend.

    Args:
        headings: heading of each column.
        rows: at least one (image (H, W, 3), masks (H, W)), all uint8, of any sizes.
        classes: names and colors of the classes.

    Returns:
        (h, w, 3) uint8.
    """
    gap = CELL // 24
    width = gap + len(headings) * (CELL + gap)
    bands = [_headings(headings, width, gap)]
    for image, *masks in rows:
        cells = [_cell(image), *(_cell(classes.colorize(mask)) for mask in masks)]
        band = _paper(cells[0].shape[0] + gap, width)
        for column, cell in enumerate(cells):
            left = gap + column * (CELL + gap)
            band[:-gap, left : left + CELL] = cell
        bands.append(band)
    labels = sorted({label for _, *masks in rows for mask in masks for label in areas(mask)})
    strip = legend(classes, dict.fromkeys(labels), min(width, LEGEND))
    bands.append(_paper(strip.shape[0], width))
    bands[-1][:, : strip.shape[1]] = strip
    return np.concatenate(bands)


def _entry(classes: Classes, label: int, share: float | None) -> tuple[str, str]:
    """Return the name of a class and its area as text."""
    name = classes.names[label] if label < len(classes) else "ignored"
    if share is None:
        return name, ""
    return name, f"  {percent(share)}"


def _shorten(name: str, area: str, room: float, length: Callable[[str], float]) -> str:
    """Return name and area, with the name truncated so that both fit into `room` pixels."""
    text = name + area
    while name and length(text) > room:
        name = name[:-1]
        text = f"{name}…{area}"
    return text


def _headings(headings: Sequence[str], width: int, gap: int) -> Picture:
    font = ImageFont.load_default(size=CELL // 14)
    band = Image.new("RGB", (width, CELL // 8), PAPER)
    draw = ImageDraw.Draw(band)
    for column, text in enumerate(headings):
        center = gap + column * (CELL + gap) + CELL / 2
        draw.text((center, CELL / 16), text, INK, font, anchor="mm")
    return np.array(band)


def _cell(image: Mask) -> Mask:
    """Return the image at the width of a cell, enlarged by nearest neighbor or reduced by averaging."""
    height, width = image.shape[:2]
    resample = Image.Resampling.NEAREST if width < CELL else Image.Resampling.BOX
    size = (CELL, max(1, round(height * CELL / width)))
    return np.array(Image.fromarray(image).resize(size, resample))


def _enlarge(array: NDArray[T], factor: int) -> NDArray[T]:
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def _paper(height: int, width: int) -> Picture:
    return np.full((height, width, 3), PAPER, np.uint8)


def _center(image: Picture, width: int) -> Picture:
    """Return the image centered on a white background of this width."""
    result = _paper(image.shape[0], width)
    left = (width - image.shape[1]) // 2
    result[:, left : left + image.shape[1]] = image
    return result
