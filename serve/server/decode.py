"""From the bytes of a request to an image, within limits that hold before anything is decoded."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from zoo.errors import InvalidImageError
from zoo.images import upright_rgb
from zoo.serve.server.errors import TooLargeError, UnsupportedFormatError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Pillow's names; no other decoder sees what a client sends."""

EXPECTED = "expected a JPEG, PNG, WebP, BMP, TIFF or GIF image"

OTHER_FORMATS = {
    (0, b"%PDF"): "PDF",
    (0, b"8BPS"): "PSD",
    (0, b"<svg"): "SVG",
    (0, b"<?xml"): "XML",
    (0, b"\x00\x00\x00\x0cjP"): "JPEG 2000",
    (0, b"\xff\x0a"): "JPEG XL",
    (0, b"\x00\x00\x00\x0cJXL"): "JPEG XL",
    (4, b"ftypheic"): "HEIC",
    (4, b"ftypheix"): "HEIC",
    (4, b"ftypmif1"): "HEIF",
    (4, b"ftypavif"): "AVIF",
    (4, b"ftyp"): "MP4",
}
"""Where which bytes tell a format that people send by mistake; the first that fits."""


def decode(body: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Return the image of a request, turned upright as its EXIF data say; of an animation, the first frame.

    Images without transparency of any kind of color at 8 bits are taken, as `zoo.load` takes them.

    Args:
        body: of the request.
        max_pixels: largest height x width, looked up in the header.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InvalidImageError: empty, broken, transparent in places, or of more than 8 bits a channel.
        TooLargeError: too many pixels.
        UnsupportedFormatError: another format than `FORMATS`.
    """
    if not body:
        raise InvalidImageError(f"got a body of 0 bytes, {EXPECTED}: send the file as the body")
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            check_pixels(image.size, max_pixels)
            return upright_rgb(image, "the image")
    except (InvalidImageError, TooLargeError):
        raise
    except UnidentifiedImageError as error:
        raise _unknown(body) from error
    except Image.DecompressionBombError as error:  # Pillow's own limit, for any header
        raise TooLargeError(
            f"got an image over any limit, expected at most {max_pixels}: shrink it"
        ) from error
    except Exception as error:  # decoders raise what they like on hostile bytes
        raise InvalidImageError(
            f"the image cannot be decoded ({_line(error)}), {EXPECTED}: save it again and send the whole file"
        ) from error


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Raise if an image has too many pixels.

    Args:
        size: width and height.
        max_pixels: largest product of the two.

    Raises:
        TooLargeError: says how many.
    """
    width, height = size
    if width * height > max_pixels:
        raise TooLargeError(
            f"got an image of {height} x {width} pixels, expected at most {max_pixels} in all: shrink it"
        )


def _unknown(body: bytes) -> InvalidImageError | UnsupportedFormatError:
    for (start, magic), name in OTHER_FORMATS.items():
        if body[start : start + len(magic)] == magic:
            return UnsupportedFormatError(f"got {name}, {EXPECTED}: save it as JPEG or PNG")
    return InvalidImageError(f"got {len(body)} bytes that are no image, {EXPECTED}: send the file as it is")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
