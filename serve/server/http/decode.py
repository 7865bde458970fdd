"""Decoding of request bodies into images, with limits that are checked before decoding."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from zoo.errors import InvalidImageError
from zoo.image_format import RGB
from zoo.images import upright_rgb
from zoo.rasters import decode_raster
from zoo.serve.server.core.errors import BadRequestError, TooLargeError, UnsupportedFormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from starlette.requests import Request

    from zoo.image_format import ImageFormat


FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Pillow's names of the accepted formats; no other decoder is used."""

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
"""Signatures (offset, bytes) of other formats, for the error message; the first match counts."""

FORM = "multipart/form-data"

HOW = "send the image as the body (curl --data-binary @FILE) or as one file of a form (curl -F image=@FILE)"

MAX_FILES, MAX_FIELDS = 2, 8


def decode(body: bytes, max_pixels: int, format_: ImageFormat = RGB) -> NDArray[Any]:
    """Return the image of a request, rotated according to its EXIF data; of an animation, the first frame.

    A model of RGB accepts 8-bit images of any color mode without transparency, as by `zoo.load`; others
    accept TIFF, `.npy` and PNG of their format.

    Args:
        body: body of the request.
        max_pixels: maximum height x width, checked in the image's header.
        format_: format of the images that the model takes.

    Returns:
        (H, W, C) of the format.

    Raises:
        InvalidImageError: the image is empty, damaged, or of another format; for RGB, transparent or of more
            than 8 bits per channel.
        TooLargeError: the image has too many pixels.
        UnsupportedFormatError: the format is not in `FORMATS`.
    """
    if not body:
        raise InvalidImageError(f"got a body of 0 bytes, {EXPECTED}: send the file as the body")
    if not format_.is_rgb:
        return decode_raster(
            io.BytesIO(body), format_, "the image", lambda size: check_pixels(size[::-1], max_pixels)
        )
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
    except Exception as error:  # decoders may raise anything on hostile bytes
        raise InvalidImageError(
            f"the image cannot be decoded ({_line(error)}), {EXPECTED}: save it again and send the complete "
            "file"
        ) from error


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Check that an image does not have too many pixels.

    Args:
        size: width and height.
        max_pixels: maximum product of the two.

    Raises:
        TooLargeError: it has too many.
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
    return InvalidImageError(
        f"got {len(body)} bytes that are not an image, {EXPECTED}: send the unchanged file"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


class MemoryFormParser(MultiPartParser):
    """Form parser that keeps files, whose size is already limited, in memory instead of on disk."""

    spool_max_size = 0  # of SpooledTemporaryFile: never spill to disk


async def image_bytes(request: Request) -> bytes:
    """Return the bytes of the image in a request.

    Raises:
        UnsupportedFormatError: the body is JSON, or multipart but not a form.
        BadRequestError: the form does not consist of exactly one file.
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
    fields = [name for name, value in form.multi_items() if not isinstance(value, UploadFile)]
    try:
        if len(files) != 1:
            raise BadRequestError(f"got a form with {len(files) or 'no'} files, expected one: {HOW}")
        if fields:
            raise BadRequestError(
                f"got form field {fields[0][:50]!r}, expected one file: send parameters in the URL, such as "
                "/predict?model=NAME"
            )
        return await files[0].read()
    finally:
        await form.close()
