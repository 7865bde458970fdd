"""From an image of any kind to the RGB that networks take, and from their mask to a PNG.

The only copy of both, of `predict`, `load` and `serve`.

Training is stricter (`zoo.data.files`): what it refuses can be corrected once, in the data set.
"""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from zoo.errors import InvalidImageError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.classes import Classes, Mask

READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for a file that is cut short or not an image."""

DEEP = ("I", "F")
"""Starts of Pillow's modes of more than 8 bits, whose range says nothing of what is black and white."""

TRANSPARENT = ("RGBA", "RGBa", "LA", "La", "PA")

DEFLATE: dict[str, Any] = {"compress_level": 1, "compress_type": zlib.Z_RLE}
"""How masks are written as PNG: in a third of the time of Pillow's defaults, and smaller (masks are runs)."""


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Return the image of a file, turned upright as its EXIF data say, (H, W, 3) uint8 RGB.

    Raises:
        InvalidImageError: no image, broken, transparent in places, or of more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            return upright_rgb(image, str(path))
    except UnidentifiedImageError as error:
        raise InvalidImageError(
            f"{path} is not an image that can be read: convert it to PNG or JPEG"
        ) from error
    except READ_ERRORS as error:
        raise InvalidImageError(f"{path} cannot be read ({error}): get or save the image again") from error


def upright_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Return an opened image, turned upright as its EXIF data say, (H, W, 3) uint8 RGB; see `as_rgb`."""
    _check_depth(image, name)  # a turned image no longer knows how its file stores it
    return as_rgb(ImageOps.exif_transpose(image), name)


def as_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Return an image of any kind of color at 8 bits as (H, W, 3) uint8 RGB.

    Args:
        image: of Pillow; an alpha channel may be there if it is opaque.
        name: what messages call it.

    Raises:
        InvalidImageError: transparent in places, of more than 8 bits a channel, or of a mode without colors.
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
    """Return a PNG whose pixels are labels: with the colors of the classes, or 16-bit grey above 255 classes.

    Args:
        mask: (H, W) uint8, or int32 above 255 classes; labels 0..K-1.
        classes: at most 65,536.
    """
    if mask.dtype == np.uint8:
        image = Image.fromarray(mask)
        image.putpalette([channel for color in classes.palette for channel in color])
    else:
        image = Image.fromarray(mask.astype(np.uint16))
    file = io.BytesIO()
    image.save(file, "PNG", **DEFLATE)
    return file.getvalue()


def _check_depth(image: Image.Image, name: str) -> None:
    # Pillow gives 16-bit RGB as 8-bit RGB: only how the file stores it tells
    is_cut = any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))
    if is_cut or image.mode.startswith(DEEP):
        raise InvalidImageError(
            f"{name} has more than 8 bits per channel ({image.mode}), expected 8: scale it to 0..255 as the "
            f"training images were"
        )
