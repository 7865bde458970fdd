"""Readers of image and mask files, and the source of such files."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from zoo.data.cache.memo import Memo
from zoo.data.labels import LabelMap, gray_levels, packed, white_of
from zoo.data.source import Source, Split
from zoo.errors import DatasetError, InvalidImageError
from zoo.image_format import RGB
from zoo.images import READ_ERRORS, reason_of
from zoo.rasters import read_raster

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.classes import Classes
    from zoo.data.formats.per_label import AnyDrawing
    from zoo.data.labels import Palettes
    from zoo.image_format import ImageFormat

ARRAY_SUFFIX = ".npy"
"""Suffix of images that are not 8-bit RGB, beside `IMAGE_SUFFIXES`."""
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
"""Suffixes of lossless formats: JPEG changes the labels."""


def image_suffixes(format_: ImageFormat) -> frozenset[str]:
    """Return the suffixes of image files of a format."""
    return IMAGE_SUFFIXES if format_.is_rgb else IMAGE_SUFFIXES | {ARRAY_SUFFIX}


LOSSY = {
    "JPEG": "JPEG",
    "MPO": "JPEG",
    "WEBP": "WebP",
    "AVIF": "AVIF",
    "jpeg": "TIFF compressed as JPEG",
    "tiff_jpeg": "TIFF compressed as JPEG",
}
"""Names of formats, and of compressions of TIFF, that change values."""
BMP_BITS = {"1": 1, "L": 8}
"""Bits per pixel of the modes that Pillow gives to gray BMP files."""


UNLISTABLE = re.compile("[\r\n\ud800-\udfff]")
"""Line breaks, and bytes of a name that are not UTF-8."""


class Pair(NamedTuple):
    """The files of one id."""

    image: Path
    mask: Path | None
    drawing: AnyDrawing | None = None
    """Regions from which the mask is drawn; `mask` is then the annotation file."""


def add_pair(pairs: dict[str, Pair], id_: str, pair: Pair) -> None:
    """Add the files of an id.

    Raises:
        DatasetError: the id has files already.
    """
    if id_ in pairs:
        raise DatasetError(
            f"{pair.image}: got a second image {id_} beside {pairs[id_].image}, expected different names: "
            f"rename one of them"
        )
    pairs[id_] = pair


class FileSource(Source):
    """A source of image and mask files.

    Args:
        spec: name of the source on the command line.
        classes: names and colors of the labels.
        files: files of each id in each split, in order.
        labels: map from values or colors of the masks to labels; None if the values are the labels.
        palettes: reading of masks with a palette, unless `labels` maps colors.
        memo: results of earlier commands about the files; None to look for them when they are needed.
        format_: format of the images.
    """

    def __init__(  # noqa: PLR0913
        self,
        spec: str,
        classes: Classes,
        files: Mapping[Split, Mapping[str, Pair]],
        labels: LabelMap | None = None,
        palettes: Palettes = "index",
        memo: Memo | None = None,
        format_: ImageFormat = RGB,
    ) -> None:
        super().__init__(spec, classes, format_)
        self._memo = memo
        self.labels, self.palettes = labels, palettes
        self._ids: dict[Split, tuple[str, ...]] = {split: tuple(pairs) for split, pairs in files.items()}
        self.files = {id_: pair for pairs in files.values() for id_, pair in pairs.items()}
        if broken := next((pair for id_, pair in self.files.items() if UNLISTABLE.search(id_)), None):
            raise DatasetError(
                f"{str(broken.image)!r}: got a name of two lines or not in UTF-8, expected one line of text, "
                f"as lists have: rename it"
            )

    @property
    def memo(self) -> Memo:
        """Return results of earlier commands about these files."""
        if self._memo is None:
            files = {split: {id_: self.files[id_] for id_ in ids} for split, ids in self._ids.items()}
            self._memo = Memo(self.spec, digest_of(files), paths_of(self.files.values()))
        return self._memo

    def ids(self, split: Split) -> tuple[str, ...]:
        return self._ids.get(split, ())

    def read_image(self, id_: str) -> NDArray[Any]:
        return read_image_file(self.files[id_].image, self.format)

    def read_mask(self, id_: str) -> NDArray[np.uint8]:
        _, path, drawing = self.files[id_]
        if drawing is not None:
            return drawing.draw()
        if path is None:
            raise DatasetError(f"{id_}: got an image without a mask, expected an id of train or val")
        return read_mask_file(path, self.labels, self.palettes)


def paths_of(pairs: Iterable[Pair]) -> Iterator[str]:
    """Yield the paths of images and masks, of masks drawn from several files all of them."""
    for pair in pairs:
        yield str(pair.image)
        if pair.drawing is not None and pair.drawing.paths:
            yield from map(str, pair.drawing.paths)
        elif pair.mask is not None:
            yield str(pair.mask)


def digest_of(files: Mapping[Split, Mapping[str, Pair]]) -> str:
    """Return a hash of the ids of each split and their images."""
    ids = {split: [(id_, str(pair.image)) for id_, pair in pairs.items()] for split, pairs in files.items()}
    return hashlib.blake2b(repr(ids).encode(errors="surrogateescape"), digest_size=16).hexdigest()


def read_image_file(path: Path, format_: ImageFormat = RGB) -> NDArray[Any]:
    """Return an image file as (H, W, C) of a format, with its EXIF orientation applied.

    Raises:
        DatasetError: a file that is unreadable or of another format; for RGB, neither RGB, gray nor palette
            at 8 bits.
    """
    if not format_.is_rgb:
        try:
            return read_raster(path, format_)
        except InvalidImageError as error:
            raise DatasetError(str(error)) from error
    try:
        with Image.open(path) as image:
            mode = stored_mode(image)
            if mode in ("1", "L", "P", "RGB"):
                ImageOps.exif_transpose(image, in_place=True)
                return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except READ_ERRORS as error:
        raise unreadable(path, "an image", error) from error
    raise DatasetError(
        f"{path}: got an image of mode {mode}, expected RGB, gray (L) or palette (P) at 8 bits: "
        f"convert it to 8-bit RGB"
    )


def read_mask_file(
    path: Path, labels: LabelMap | None = None, palettes: Palettes = "index"
) -> NDArray[np.uint8]:
    """Return a mask file as (H, W) uint8 labels.

    Args:
        path: path of the file.
        labels: map from its values or colors to labels; None if the values are the labels.
        palettes: reading of a mask with a palette, unless `labels` maps colors.

    Raises:
        DatasetError: a file that is unreadable, or whose pixels are not labels.
    """
    is_color = labels is not None and labels.kind == "color"
    try:
        with Image.open(path) as image:
            mode, lossy = stored_mode(image), lossy_format(image)
            if lossy:
                raise DatasetError(
                    f"{path}: got a mask in {lossy}, which changes its values, expected PNG, BMP or TIFF: "
                    f"save it as an 8-bit index PNG from the original labels"
                )
            if mode == "P" and not is_color and isinstance(palettes, LabelMap):
                labels, is_color = palettes, True
            codes = _codes(image, mode, labels, palettes)
    except READ_ERRORS as error:
        raise unreadable(path, "a mask", error) from error
    if codes is None:
        raise _wrong_mask_mode(path, mode, is_color)
    return codes if labels is None else labels.apply(codes, path)  # type: ignore[return-value]


def _codes(
    image: Image.Image, mode: str, labels: LabelMap | None, palettes: Palettes
) -> NDArray[np.uint8 | np.uint32] | None:
    """Return the values or packed colors of a mask; None if its mode has neither."""
    is_color = labels is not None and labels.kind == "color"
    if mode not in ("1", "L", "P", *(("RGB", "RGBA", "LA") if is_color else ())):
        return None
    if is_color:
        return packed(image)
    if mode == "P" and palettes == "gray":
        return gray_levels(image)
    values = np.asarray(image, np.uint8)
    return values * np.uint8(white_of(labels)) if mode == "1" else values


def _wrong_mask_mode(path: Path, mode: str, is_color: bool) -> DatasetError:
    if is_color:
        return DatasetError(
            f"{path}: got a mask of mode {mode}, expected one color a pixel (mode RGB, RGBA, LA, P, L or 1), "
            f"as data.toml has colors: save it as 8-bit RGB"
        )
    remedy = (
        "list the colors of the classes under [colors] in data.toml (zoo data check writes them)"
        if mode == "RGB"
        else "save it as an 8-bit index PNG whose values are the labels 0..K-1"
    )
    return DatasetError(
        f"{path}: got a mask of mode {mode}, expected one label a pixel (mode P, L or 1): {remedy}"
    )


def stored_mode(image: Image.Image) -> str:
    """Return Pillow's mode, or the mode in the file where Pillow would change the pixels.

    Pillow reads 16-bit RGB as 8-bit RGB, scales 2- and 4-bit gray to 0..255, and reads a BMP file whose
    palette is a gray ramp of 2 or 16 colors as one of 1 or 8 bits, regardless of its actual depth.
    """
    tile = getattr(image, "tile", None)  # encoding of the pixels, until they are loaded
    stored = tile[0].args if tile else None
    raw = stored[0] if isinstance(stored, tuple) and stored else stored
    if image.format == "BMP" and isinstance(stored, tuple) and raw in BMP_BITS:
        stride = (image.width * BMP_BITS[raw] + 31) // 32 * 4  # bytes of a row
        is_right = isinstance(stored[1], bool) or stored[1] == stride  # a bool: run-length encoded
        return image.mode if is_right else f"{image.mode};BMP"
    changed = isinstance(raw, str) and (";16" in raw or raw in ("L;2", "L;4"))
    return str(raw) if changed else image.mode


def lossy_format(image: Image.Image) -> str:
    """Return the format of an opened file if it changes values, whatever its suffix; else an empty text."""
    return LOSSY.get(image.format or "") or LOSSY.get(str(image.info.get("compression")), "")


def unreadable(path: Path, kind: str, error: Exception) -> DatasetError:
    """Return the error for a file that Pillow cannot read."""
    return DatasetError(
        f"{path}: got a file that cannot be read ({reason_of(error)}), expected {kind}: save it again or "
        f"remove it"
    )
