"""Conversion of images to RGB arrays and of masks to PNG, shared by `predict`, `load` and `serve`.

Training is stricter (`zoo.data.files`): images that it rejects can be corrected once, in the data set.
"""

from __future__ import annotations

import io
import logging
import re
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from zoo.errors import InvalidImageError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.classes import Classes, Color, Mask

log = logging.getLogger(__name__)

READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""Errors that Pillow raises for files that are truncated or not images."""

DEEP = ("I", "F")
"""Prefixes of Pillow's modes of more than 8 bits, whose values of black and white are not known."""

PAGED = ("TIFF", "GIF", "WEBP", "PNG")
"""Formats of several pages or frames; those of a photo from a phone (MPO) are previews."""

ORIENTATION, TURNED = 0x0112, range(5, 9)
"""EXIF tag, and its values that exchange width and height."""

TRANSPARENT = ("RGBA", "RGBa", "LA", "La", "PA")

UNKNOWN: Color = (224, 224, 192)
"""Color of pixels without a class, as in PASCAL VOC."""

DEFLATE: dict[str, Any] = {"compress_level": 1, "compress_type": zlib.Z_RLE}
"""PNG settings for masks: run-length encoding takes a third of the time of the defaults, and less space."""


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Return the image of a file with its EXIF orientation applied, (H, W, 3) uint8 RGB.

    Raises:
        InvalidImageError: a file that is broken or no image, or an image that is partly transparent or has
            more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            if (pages := pages_of(image)) > 1:
                log.warning("%s: the first of %d pages or frames is read, the others are not", path, pages)
            return upright_rgb(image, str(path))
    except UnidentifiedImageError as error:
        raise InvalidImageError(
            f"{path} is not an image that can be read: convert it to PNG or JPEG"
        ) from error
    except READ_ERRORS as error:
        raise InvalidImageError(
            f"{path} cannot be read ({reason_of(error)}): get or save the image again"
        ) from error


def pages_of(image: Image.Image) -> int:
    """Return the number of pages or frames of an image file."""
    return int(getattr(image, "n_frames", 1)) if image.format in PAGED else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of an opened image with its EXIF orientation applied."""
    width, height = image.size
    return (height, width) if image.getexif().get(ORIENTATION) in TURNED else (width, height)


def reason_of(error: Exception) -> str:
    """Return why Pillow cannot read a file, in words."""
    if isinstance(error, Image.DecompressionBombError) and (found := re.search(r"(\d+) pixels", str(error))):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"it has {int(found[1]):,} pixels, more than {most:,}: cut it into tiles"
    return str(error)


def upright_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Return an opened image with its EXIF orientation applied, (H, W, 3) uint8 RGB; raises as `as_rgb`."""
    _check_depth(image, name)  # a transposed image no longer knows the depth of its file
    return as_rgb(ImageOps.exif_transpose(image), name)


def as_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Return an 8-bit image of any color mode as (H, W, 3) uint8 RGB.

    Args:
        image: Pillow image; an alpha channel must be fully opaque.
        name: name of the image in messages.

    Raises:
        InvalidImageError: an image that is partly transparent, has more than 8 bits a channel, or whose mode
            has no conversion to RGB.
    """
    _check_depth(image, name)
    if image.mode in TRANSPARENT or "transparency" in image.info:
        image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            raise InvalidImageError(
                f"{name} is transparent in places, expected an opaque image: flatten it onto a background"
            )
    try:
        return np.array(image.convert("RGB"))
    except ValueError as error:
        raise InvalidImageError(
            f"{name} is {image.mode}, which Pillow cannot convert: convert it to RGB"
        ) from error


def mask_png(mask: Mask, classes: Classes) -> bytes:
    """Return a PNG of class ids: indexed, in the colors of the classes, or 16-bit gray above 255 classes.

    Args:
        mask: (H, W) uint8, or int32 above 255 classes; class ids 0..K-1, or, in uint8, `IGNORE`.
        classes: names and colors of the classes, at most 65,536.
    """
    if mask.dtype == np.uint8:
        image = Image.fromarray(mask)
        colors = list(classes.palette)
        if mask.max(initial=0) >= len(colors):  # Pillow stores as many bits as the palette needs
            colors += [UNKNOWN] * (256 - len(colors))
        image.putpalette([channel for color in colors for channel in color])
    else:
        image = Image.fromarray(mask.astype(np.uint16))
    file = io.BytesIO()
    image.save(file, "PNG", **DEFLATE)
    return file.getvalue()


def _check_depth(image: Image.Image, name: str) -> None:
    # Pillow opens 16-bit RGB as 8-bit RGB: only the encoding of the file reveals it
    is_cut = any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))
    if is_cut or image.mode.startswith(DEEP):
        raise InvalidImageError(
            f"{name} has more than 8 bits per channel ({image.mode}), expected 8: scale it to 0..255 as the "
            f"training images were"
        )
