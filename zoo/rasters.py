"""Readers of images of any number of channels and depth: TIFF, `.npy`, and what Pillow reads losslessly."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from zoo.errors import InvalidImageError, ZooError
from zoo.image_format import ImageFormat, check_finite
from zoo.images import reason_of, upright_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Size = tuple[int, int]

NPY = b"\x93NUMPY"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MODES = {"L": (1, "uint8"), "RGB": (3, "uint8"), "RGBA": (4, "uint8"), "I;16": (1, "uint16")}
"""Channels and element type of Pillow's modes."""


class ImageFormatError(InvalidImageError):
    """An image of another number of channels, or another element type, than expected."""


def read_raster(path: Path, format_: ImageFormat) -> NDArray[Any]:
    """Return the image of a file, (H, W, C) of a format that is not 8-bit RGB.

    Raises:
        ImageFormatError: an image of another format.
        InvalidImageError: a file that cannot be read.
    """
    try:
        with path.open("rb") as file:
            return decode_raster(file, format_, str(path))
    except OSError as error:
        raise InvalidImageError(
            f"{path} cannot be read ({reason_of(error)}): get or save the image again"
        ) from error


def decode_raster(
    file: BinaryIO, format_: ImageFormat, name: str, on_size: Callable[[Size], None] | None = None
) -> NDArray[Any]:
    """Return the image of an open file, (H, W, C) of a format that is not 8-bit RGB.

    A TIFF file or an array may hold (H, W, C), (C, H, W) or, for one channel, (H, W); pages of a TIFF file
    are channels.

    Args:
        file: file of a seekable stream.
        format_: expected format.
        name: name of the image in messages.
        on_size: called with height and width before pixels are decoded.

    Raises:
        ImageFormatError: an image of another format.
        InvalidImageError: a file that cannot be read, or values that are not finite.
    """
    start = file.read(len(NPY))
    file.seek(0)
    opened = _npy if start == NPY else _tiff if start.startswith(TIFF) else partial(_pillow, name=name)
    with _readable(name), opened(file) as (shape, dtype, read):
        axes = _axes(shape, dtype, format_, name)
        if on_size is not None:
            on_size((shape[axes[0]], shape[axes[1]]))
        pixels = read()
    pixels = pixels[..., None] if len(axes) == 2 else pixels.transpose(axes)
    image = np.ascontiguousarray(pixels, dtype=format_.numpy)
    check_finite(image, name)
    return image


def _axes(shape: tuple[int, ...], dtype: np.dtype[Any], format_: ImageFormat, name: str) -> tuple[int, ...]:
    """Return the axes of height, width and, unless the only channel has none, channels.

    Raises:
        ImageFormatError: an array of another format.
    """
    is_type = dtype.newbyteorder("=") == format_.numpy
    if is_type and shape and min(shape) > 0:
        if len(shape) == 2 and format_.channels == 1:
            return 0, 1
        if len(shape) == 3 and shape[2] == format_.channels:
            return 0, 1, 2
        if len(shape) == 3 and shape[0] == format_.channels:
            return 1, 2, 0
    got = f"{' x '.join(map(str, shape))} values of {dtype.name}"
    raise ImageFormatError(
        f"{name} has {got}, expected {format_}, as height x width x channels or channels x height x width: "
        f"convert it"
    )


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn errors of decoders, which may raise anything for a damaged file, into `InvalidImageError`."""
    try:
        yield
    except ZooError:
        raise
    except Exception as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else reason_of(error)
        raise InvalidImageError(
            f"{name} cannot be read ({reason or type(error).__name__}): save it again as TIFF or .npy"
        ) from error


Opened = tuple[tuple[int, ...], np.dtype[Any], "Callable[[], NDArray[Any]]"]
"""Shape and type of an array, and the function that decodes it."""


@contextmanager
def _npy(file: BinaryIO) -> Iterator[Opened]:
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"version {version} of .npy")
    shape, _, dtype = read_header[version](file)
    file.seek(0)
    yield shape, dtype, lambda: np.lib.format.read_array(file, allow_pickle=False)


@contextmanager
def _tiff(file: BinaryIO) -> Iterator[Opened]:
    import tifffile  # slow, and not needed for RGB

    with tifffile.TiffFile(file) as tiff:
        series = tiff.series[0]
        yield tuple(series.shape), np.dtype(series.dtype), series.asarray


@contextmanager
def _pillow(file: BinaryIO, name: str) -> Iterator[Opened]:
    with Image.open(file) as image:
        is_cut = any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))
        if image.mode not in MODES or (is_cut and image.mode != "I;16"):
            depth = " at 16 bits" if is_cut else ""
            raise ImageFormatError(
                f"{name} is an image of mode {image.mode}{depth}, expected {', '.join(MODES)}: save it as "
                f"TIFF or .npy"
            )
        channels, dtype = MODES[image.mode]
        width, height = upright_size(image)
        shape = (height, width) if channels == 1 else (height, width, channels)
        yield shape, np.dtype(dtype), lambda: np.asarray(ImageOps.exif_transpose(image))
