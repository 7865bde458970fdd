"""Images that a load test sends: files of a folder, or generated shapes as JPEG."""

from __future__ import annotations

import io
import mimetypes
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from zoo.data.files import IMAGE_SUFFIXES, read_image_file
from zoo.data.shapes import ShapesSource
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

COUNT = 16
"""Maximum number of different images."""
SIZE = (480, 640)
"""Height and width of generated images."""
QUALITY = 90
"""JPEG quality: about 60 kB per image of `SIZE`."""


class Picture(NamedTuple):
    """Image of a load test."""

    data: bytes
    """Encoded image."""
    media_type: str
    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB pixels."""


def drawn(size: tuple[int, int] = SIZE) -> tuple[Picture, ...]:
    """Return generated shapes as JPEG.

    Args:
        size: height and width.
    """
    source = ShapesSource(size)
    return tuple(_encoded(source.read_image(id_)) for id_ in source.ids("val")[:COUNT])


def of_folder(folder: Path) -> tuple[Picture, ...]:
    """Return the first images of a folder by name, with the files' bytes.

    Raises:
        DatasetError: the folder has no images, or one cannot be read.
    """
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES][:COUNT]
    if not paths:
        raise DatasetError(f"{folder} has no images, expected a folder of files such as photo.jpg")
    return tuple(map(_of_file, paths))


def described(pictures: tuple[Picture, ...]) -> str:
    """Return a description of images: number, sizes and formats."""
    sizes = {f"{picture.pixels.shape[1]} x {picture.pixels.shape[0]}" for picture in pictures}
    kinds = {picture.media_type.removeprefix("image/").upper() for picture in pictures}
    size = sizes.pop() if len(sizes) == 1 else f"{len(sizes)} sizes"
    return f"{len(pictures)} {' and '.join(sorted(kinds))} of {size}"


def _encoded(pixels: NDArray[np.uint8]) -> Picture:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return Picture(file.getvalue(), "image/jpeg", pixels)


def _of_file(path: Path) -> Picture:
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return Picture(path.read_bytes(), media_type, read_image_file(path))
