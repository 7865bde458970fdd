"""From the bytes of a request to an image, within limits that hold before anything is decoded."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from zoo.errors import InvalidImageError
from zoo.images import upright_rgb
from zoo.serve.server.core.errors import BadRequestError, TooLargeError, UnsupportedFormatError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from starlette.requests import Request


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

FORM = "multipart/form-data"

HOW = "send the image as the body (curl --data-binary @FILE) or as one file of a form (curl -F image=@FILE)"

MAX_FILES, MAX_FIELDS = 2, 8


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


class MemoryFormParser(MultiPartParser):
    """Keeps files in memory, whose size is limited already: nothing of a request is written to disk."""

    spool_max_size = 0  # of SpooledTemporaryFile: no size is too large


async def image_bytes(request: Request) -> bytes:
    """Return the bytes of the image that a request carries.

    Raises:
        UnsupportedFormatError: JSON, or another kind of multipart than a form.
        BadRequestError: a form of no file, or of several.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == FORM:
        return await _only_file(request)
    if content_type.startswith("multipart/") or content_type.endswith(("/json", "+json")):
        raise UnsupportedFormatError(f"got {content_type[:80]}, expected an image or {FORM}: {HOW}")
    return await request.body()


async def _only_file(request: Request) -> bytes:
    parser = MemoryFormParser(request.headers, request.stream(), max_files=MAX_FILES, max_fields=MAX_FIELDS)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise BadRequestError(f"got a form that cannot be read ({error.message}): {HOW}") from error
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    try:
        if len(files) != 1:
            raise BadRequestError(f"got a form with {len(files) or 'no'} files, expected one: {HOW}")
        return await files[0].read()
    finally:
        await form.close()
