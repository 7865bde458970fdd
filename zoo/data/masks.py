"""Contents of mask files: modes, sizes, and pixel counts by value or color, before their interpretation."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from PIL import Image

from zoo.data.files import lossy_format, stored_mode, unreadable
from zoo.data.labels import pack, packed, unpack
from zoo.errors import DatasetError
from zoo.images import READ_ERRORS, pages_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.classes import Color
    from zoo.data.files import Pair
    from zoo.data.formats.per_label import AnyDrawing
    from zoo.data.source import Split

VALUE_MODES = ("1", "L", "P")
COLOR_MODES = ("RGB", "RGBA", "LA")
DRAWN = "COCO"
"""Mode of masks that are drawn from annotations."""
MOST_COLORS = 256
MOST_SHOWN = 6
"""Number of values or colors shown in a message."""
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


class MaskFacts(NamedTuple):
    """Contents of a mask."""

    error: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    is_color: bool = False
    pixels: dict[int, int] | None = None
    """Pixel count of each value, index or packed color; None above `MOST_COLORS` or for another mode."""
    palette: tuple[Color, ...] = ()
    """Stored palette of a mask of mode P."""
    others: tuple[int, ...] = ()
    """First values of a mask of an unsupported mode."""
    pages: int = 1
    """Number of pages of its file."""
    overlap: int = 0
    """Number of pixels of a drawn mask that objects of several classes cover."""
    areas: int = 0
    """Number of regions of a drawn mask whose area is not the one in the annotations."""
    lossy: str = ""
    """Format of its file if that changes values, whatever its suffix."""
    see_through: tuple[Color, ...] = ()
    """Colors of both transparent and visible pixels."""

    def color_of(self, code: int) -> Color:
        """Return the color in which a value, index or packed color is displayed."""
        if self.is_color:
            return unpack(code)
        if self.mode == "P":
            return self.palette[code] if code < len(self.palette) else BLACK
        return WHITE if self.mode == "1" and code else (code, code, code)

    def colors(self) -> dict[int, int]:
        """Return the pixel count of each displayed color, packed."""
        counted: Counter[int] = Counter()
        for code, count in (self.pixels or {}).items():
            counted[pack(self.color_of(code))] += count
        return dict(counted)

    def levels(self) -> dict[int, int]:
        """Return the pixel count of each gray level of a gray mask."""
        return {unpack(color)[0]: count for color, count in self.colors().items()}


class NamedMask(NamedTuple):
    """A mask of a data set."""

    split: Split
    name: str
    """Name of its file, for messages."""
    facts: MaskFacts

    def in_words(self, codes: Iterable[int], *, is_color: bool = False) -> str:
        """Return a description of the mask: its name, its mode, and these values or packed colors."""
        return f"{self.name} (mode {self.facts.mode}, {in_words(codes, is_color=is_color)})"


def read_mask_facts(path: Path) -> MaskFacts:
    """Return the contents of a mask file.

    Raises:
        READ_ERRORS: errors of Pillow for a file that it cannot read.
    """
    with Image.open(path) as image:
        mode, pages = stored_mode(image), pages_of(image)
        if lossy := lossy_format(image):
            return MaskFacts("", mode, image.size, pages=pages, lossy=lossy)
        image.load()
        if mode in COLOR_MODES:
            colors = _colors(image)
            shared = () if colors is None else _see_through(image)
            return MaskFacts("", mode, image.size, True, colors, pages=pages, see_through=shared)
        if mode not in VALUE_MODES:
            return MaskFacts("", mode, image.size, others=_other_values(image, mode), pages=pages)
        palette = np.reshape(image.getpalette("RGB") or [], (-1, 3)).tolist() if mode == "P" else []
        pixels = _count(np.asarray(image, np.uint8))
        return MaskFacts("", mode, image.size, False, pixels, tuple(map(tuple, palette)), pages=pages)


def read_mask(split: Split, pair: Pair) -> NamedMask:
    """Return the mask of an image, read or drawn.

    Raises:
        DatasetError: the image has no mask, or the mask cannot be read or drawn.
    """
    if pair.drawing is not None:
        return NamedMask(split, pair.drawing.where, drawn_facts(pair.drawing))
    if pair.mask is None:
        raise DatasetError(f"{pair.image}: got an image without a mask, expected one in {split}: draw it")
    try:
        return NamedMask(split, str(pair.mask), read_mask_facts(pair.mask))
    except READ_ERRORS as error:
        raise unreadable(pair.mask, "a mask", error) from error


def drawn_facts(drawing: AnyDrawing) -> MaskFacts:
    """Return the contents of a mask drawn from annotations.

    Raises:
        DatasetError: the mask cannot be drawn.
    """
    mask, overlap, areas = drawing.draw_counted()
    size = drawing.width, drawing.height
    return MaskFacts("", DRAWN, size, False, _count(mask), overlap=overlap, areas=areas)


def _count(values: NDArray[np.uint8]) -> dict[int, int]:
    """Return the pixel count of each value."""
    counts = np.bincount(values.ravel(), minlength=256)
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def in_words(codes: Iterable[int], *, is_color: bool) -> str:
    """Return values or colors as text, up to `MOST_SHOWN` of them."""
    every = sorted(codes)
    words = [str(list(unpack(code)) if is_color else code) for code in every[:MOST_SHOWN]]
    more = f" and {len(every) - MOST_SHOWN} more" if len(every) > MOST_SHOWN else ""
    return f"{'color' if is_color else 'value'}{'s' * (len(every) > 1)} {', '.join(words)}{more}"


def _other_values(image: Image.Image, mode: str) -> tuple[int, ...]:
    """Return the first values of a single-band image of an unsupported mode; none if Pillow changes them."""
    if len(image.getbands()) > 1 or (mode != image.mode and not mode.startswith("I;16")):
        return ()
    values = np.unique(np.asarray(image))
    return tuple(values[: MOST_SHOWN + 1].tolist()) if np.issubdtype(values.dtype, np.integer) else ()


def _see_through(image: Image.Image) -> tuple[Color, ...]:
    """Return the colors that both transparent and visible pixels have."""
    if "A" not in image.getbands():
        return ()
    codes, is_visible = packed(image), np.asarray(image.getchannel("A")) > 0
    return tuple(map(unpack, np.intersect1d(codes[is_visible], codes[~is_visible]).tolist()))


def _colors(image: Image.Image) -> dict[int, int] | None:
    """Return the pixel count of each packed color; None above `MOST_COLORS` colors."""
    counted = image.convert("RGB").getcolors(MOST_COLORS)
    if counted is None:
        return None
    return {pack(cast("Color", color)): count for count, color in counted}
