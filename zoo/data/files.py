"""Reading images and masks from files, and the source that does so."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from zoo.classes import IGNORE
from zoo.data.labels import packed
from zoo.data.source import Source, Split
from zoo.errors import DatasetError
from zoo.images import READ_ERRORS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.classes import Classes
    from zoo.data.coco import Drawing
    from zoo.data.labels import LabelMap

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
"""Suffixes of formats without loss: JPEG moves the labels."""


class Pair(NamedTuple):
    """The files of one id."""

    image: Path
    mask: Path | None
    drawing: Drawing | None = None
    """What the mask is drawn from; `mask` is then the file of the annotations."""


class FileSource(Source):
    """Images and masks that lie in files.

    Args:
        spec: the text that names the source on the command line.
        classes: names and colours of the labels.
        files: of each split, the files of each id, in order.
        labels: what the values or colors of the masks mean; None if the values are the labels.
    """

    def __init__(
        self,
        spec: str,
        classes: Classes,
        files: Mapping[Split, Mapping[str, Pair]],
        labels: LabelMap | None = None,
    ) -> None:
        super().__init__(spec, classes)
        self.labels = labels
        self._ids: dict[Split, tuple[str, ...]] = {split: tuple(pairs) for split, pairs in files.items()}
        self.files = {id_: pair for pairs in files.values() for id_, pair in pairs.items()}

    def ids(self, split: Split) -> tuple[str, ...]:
        return self._ids.get(split, ())

    def read_image(self, id_: str) -> NDArray[np.uint8]:
        return read_image_file(self.files[id_].image)

    def read_mask(self, id_: str) -> NDArray[np.uint8]:
        _, path, drawing = self.files[id_]
        if drawing is not None:
            return drawing.draw()
        if path is None:
            raise DatasetError(f"{id_}: got an image without a mask, expected an id of train or val")
        return read_mask_file(path, self.labels)


def read_image_file(path: Path) -> NDArray[np.uint8]:
    """Return an image file as (H, W, 3) uint8 RGB, turned upright as its EXIF data say.

    Raises:
        DatasetError: unreadable, or neither RGB, grey nor palette at 8 bits.
    """
    try:
        with Image.open(path) as image:
            mode = stored_mode(image)
            if mode in ("1", "L", "P", "RGB"):
                ImageOps.exif_transpose(image, in_place=True)
                return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except READ_ERRORS as error:
        raise _unreadable(path, "an image", error) from error
    raise DatasetError(
        f"{path}: got an image of mode {mode}, expected RGB, grey (L) or palette (P) at 8 bits: "
        f"convert it to 8-bit RGB"
    )


def read_mask_file(path: Path, labels: LabelMap | None = None) -> NDArray[np.uint8]:
    """Return a mask file as (H, W) uint8 labels.

    Args:
        path: of the file.
        labels: what its values or colors mean; None if the values are the labels.

    Raises:
        DatasetError: unreadable, or its pixels are no labels.
    """
    is_color = labels is not None and labels.kind == "color"
    try:
        with Image.open(path) as image:
            mode = stored_mode(image)
            codes = _codes(image, mode, is_color)
    except READ_ERRORS as error:
        raise _unreadable(path, "a mask", error) from error
    if codes is None:
        raise _wrong_mask_mode(path, mode, is_color)
    return codes if labels is None else labels.apply(codes, path)  # type: ignore[return-value]


def _codes(image: Image.Image, mode: str, is_color: bool) -> NDArray[np.uint8 | np.uint32] | None:
    """Return the values or packed colors of a mask, None if its mode holds none."""
    if mode not in ("1", "L", "P", *(("RGB", "RGBA") if is_color else ())):
        return None
    return packed(image) if is_color else np.asarray(image, np.uint8)


def _wrong_mask_mode(path: Path, mode: str, is_color: bool) -> DatasetError:
    if is_color:
        return DatasetError(
            f"{path}: got a mask of mode {mode}, expected one color a pixel (mode RGB, RGBA, P, L or 1), as "
            f"data.toml has colors: save it as 8-bit RGB"
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
    """Return Pillow's mode, or the file's own where Pillow would change the pixels.

    Pillow reads 16-bit RGB as 8-bit RGB and spreads 2- and 4-bit grey over 0..255.
    """
    tile = getattr(image, "tile", None)  # how the format stores the pixels, until they are loaded
    stored = tile[0].args if tile else None
    raw = stored[0] if isinstance(stored, tuple) and stored else stored
    changed = isinstance(raw, str) and (";16" in raw or raw in ("L;2", "L;4"))
    return str(raw) if changed else image.mode


def check_labels(seen: NDArray[np.bool_], where: str) -> None:
    """Raise if masks show background alone, as they do when the foreground is stored as 255.

    Args:
        seen: (256,) which values any of the masks holds.
        where: the data set or the folder of the masks.
    """
    values = set(np.flatnonzero(seen).tolist())
    if IGNORE in values and values <= {0, IGNORE}:
        raise DatasetError(
            f"{where}: got masks with no values but {sorted(values)}, expected labels 0..K-1: 255 means "
            f"ignore, so they show no foreground; give 255 a class under [labels] in data.toml "
            f"(zoo data check writes one)"
        )
    if values == {0}:
        raise DatasetError(
            f"{where}: got masks with no value but 0, expected at least two classes: "
            f"save the labels as 0..K-1"
        )


def _unreadable(path: Path, kind: str, error: Exception) -> DatasetError:
    return DatasetError(
        f"{path}: got a file that cannot be read ({error}), expected {kind}: save it again or remove it"
    )
