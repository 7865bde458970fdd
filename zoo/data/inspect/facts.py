"""Facts about the image and mask files of a data set, read once, by several threads."""

from __future__ import annotations

import hashlib
import io
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from zoo.data.files import stored_mode
from zoo.data.masks import MaskFacts, drawn_facts, read_mask_facts
from zoo.errors import DatasetError, InvalidImageError
from zoo.image_format import RGB, displayed
from zoo.images import ORIENTATION, READ_ERRORS, pages_of, reason_of
from zoo.rasters import ImageFormatError, read_raster

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.data.formats.per_label import AnyDrawing
    from zoo.image_format import ImageFormat

READABLE = ("1", "L", "P", "RGB")
DECLARED = "declared"
"""Mode of images of a declared format that is not 8-bit RGB."""
THUMB_PX = 32


class Job(NamedTuple):
    """The files of one image, to be read together."""

    image: Path | None
    mask: Path | None
    drawing: AnyDrawing | None
    format: ImageFormat = RGB
    """Declared format of the image."""


class ImageFacts(NamedTuple):
    """Facts about an image file."""

    error: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    """Width and height after the EXIF orientation is applied."""
    stored_size: tuple[int, int] = (0, 0)
    orientation: int = 1
    """EXIF orientation."""
    sha256: bytes = b""
    is_blank: bool = False
    thumb: NDArray[np.uint8] | None = None
    """(32, 32) uint8 gray."""
    pages: int = 1
    """Number of its pages or frames."""
    other_format: str = ""
    """How its format differs from the declared one."""

    @property
    def is_readable(self) -> bool:
        """Return whether training reads it."""
        return not self.error and not self.other_format and (self.mode in READABLE or self.mode == DECLARED)


class Facts(NamedTuple):
    """Facts about the files of one image; None for a missing file."""

    image: ImageFacts | None
    mask: MaskFacts | None


def read_facts(job: Job) -> Facts:
    """Return the facts about the files of a job, including errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of files that are odd but readable
        image = None if job.image is None else _facts(job.image, job.format)
        if job.drawing is not None:
            return Facts(image, _drawn(job.drawing))
        return Facts(image, None if job.mask is None else _mask(job.mask))


def _facts(path: Path, format_: ImageFormat) -> ImageFacts:
    return _image(path) if format_.is_rgb else _raster(path, format_)


def _raster(path: Path, format_: ImageFormat) -> ImageFacts:
    """Return the facts about an image that is not 8-bit RGB."""
    try:
        digest = hashlib.sha256(path.read_bytes()).digest()
        image = read_raster(path, format_)
    except ImageFormatError as error:
        return ImageFacts(other_format=str(error).removeprefix(f"{path} "), sha256=digest)
    except (InvalidImageError, OSError) as error:
        return ImageFacts(error=_reason(error, path))
    height, width = image.shape[:2]
    gray = Image.fromarray(displayed(image, format_)).convert("L")
    thumb = np.asarray(gray.resize((THUMB_PX, THUMB_PX), Image.Resampling.HAMMING))
    is_blank = bool((image.min(axis=(0, 1)) == image.max(axis=(0, 1))).all())
    return ImageFacts(
        "", DECLARED, (width, height), (width, height), sha256=digest, is_blank=is_blank, thumb=thumb
    )


def _image(path: Path) -> ImageFacts:
    try:
        content = path.read_bytes()
        digest = hashlib.sha256(content).digest()
        with Image.open(io.BytesIO(content)) as image:
            mode, pages = stored_mode(image), pages_of(image)
            if mode not in READABLE:
                return ImageFacts(
                    mode=mode, size=image.size, stored_size=image.size, sha256=digest, pages=pages
                )
            stored_size = image.size
            orientation = image.getexif().get(ORIENTATION, 1)
            gray = image.convert("L")
            lows_and_highs = gray.getextrema() if mode != "RGB" else image.getextrema()
            upright = ImageOps.exif_transpose(image) if orientation != 1 else image
            if orientation != 1:
                gray = upright.convert("L")
            thumb = gray.resize((THUMB_PX, THUMB_PX), Image.Resampling.HAMMING)
            is_blank = all(low == high for low, high in np.reshape(lows_and_highs, (-1, 2)).tolist())
            return ImageFacts(
                "", mode, upright.size, stored_size, orientation, digest, is_blank, np.asarray(thumb), pages
            )
    except READ_ERRORS as error:
        return ImageFacts(error=_reason(error, path))


def _mask(path: Path) -> MaskFacts:
    try:
        return read_mask_facts(path)
    except READ_ERRORS as error:
        return MaskFacts(error=_reason(error, path))


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image" if path.stat().st_size else "an empty file"
    return reason_of(error).replace(str(path), path.name) or type(error).__name__


def _drawn(drawing: AnyDrawing) -> MaskFacts:
    try:
        return drawn_facts(drawing)
    except DatasetError as error:
        return MaskFacts(error=str(error))
