"""Thumbnails of images and masks for the page, as data URIs."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from zoo.classes import IGNORE
from zoo.data.files import read_image_file, read_mask_file
from zoo.errors import DatasetError
from zoo.image_format import RGB, displayed
from zoo.images import READ_ERRORS
from zoo.pages.html import data_uri
from zoo.pages.overlay import overlay

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.data.inspect.layout import Item
    from zoo.data.inspect.meaning import Interpretation
    from zoo.image_format import ImageFormat

WIDTH, HEIGHT = 256, 192
"""Largest size of a picture, in pixels."""
QUALITY = 80
SHOWN = ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr")
"""Modes of at most 8 bits a channel."""


def image_picture(item: Item, format_: ImageFormat = RGB) -> str | None:
    """Return a thumbnail of an image; None if it cannot be read."""
    image = _image(item, format_)
    return None if image is None else encoded(image)


def file_picture(path: Path) -> str | None:
    """Return a thumbnail of any image file; None if it cannot be shown."""
    pixels = _any(path)
    return None if pixels is None else encoded(pixels)


def mask_picture(item: Item, meaning: Interpretation) -> str | None:
    """Return a thumbnail of a mask in the colors of its classes; None if it cannot be read."""
    mask = _mask(item, meaning)
    if mask is None:
        return None
    return encoded(mask if mask.ndim == 3 else meaning.classes.colorize(mask))


def overlay_picture(item: Item, meaning: Interpretation, format_: ImageFormat = RGB) -> str | None:
    """Return a thumbnail of a mask over its image; None if one cannot be read or their sizes differ."""
    image, mask = _image(item, format_), _mask(item, meaning)
    if image is None or mask is None or mask.shape != image.shape[:2]:
        return None
    width, height = fitting(image.shape[1], image.shape[0])
    small = Image.fromarray(image).resize((width, height))
    labels = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    return encoded(overlay(np.array(small), np.array(labels), meaning.classes))


def _image(item: Item, format_: ImageFormat) -> NDArray[np.uint8] | None:
    try:
        return displayed(read_image_file(item.image, format_), format_)
    except DatasetError:
        return _any(item.image)


def _any(path: Path) -> NDArray[np.uint8] | None:
    """Return the pixels of a file of any mode, also one that training rejects; None if it cannot be shown."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB")) if image.mode in SHOWN else None
    except READ_ERRORS:
        return None


def _mask(item: Item, meaning: Interpretation) -> NDArray[np.uint8] | None:
    """Return the labels of a mask, or its own colors, (H, W, 3), if the labels are unknown."""
    if item.mask is None:
        return None
    labels = None if meaning.labels is None else replace(meaning.labels, unknown="ignore")
    try:
        if item.drawing is not None:
            return item.drawing.draw()
        mask = read_mask_file(item.mask, labels, meaning.palettes)
    except DatasetError:
        return _any(item.mask)
    if meaning.is_color and labels is None:
        return _any(item.mask)
    if labels is None:
        mask = np.where(mask < len(meaning.classes), mask, IGNORE).astype(np.uint8)
    return mask


def encoded(pixels: NDArray[np.uint8]) -> str:
    """Return a picture as a data URI, fitted into `WIDTH` and `HEIGHT`."""
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.resize(fitting(*image.size)).save(buffer, "JPEG", quality=QUALITY)
    return data_uri(buffer.getvalue(), "jpeg")


def fitting(width: int, height: int) -> tuple[int, int]:
    """Return the width and height at which a picture just fits into `WIDTH` and `HEIGHT`."""
    factor = min(WIDTH / width, HEIGHT / height)
    return max(1, round(width * factor)), max(1, round(height * factor))
