"""Maps from values or colors of mask files to labels, applied on reading: no file is rewritten."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from zoo.classes import IGNORE, Color
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

    Codes = NDArray[np.uint8 | np.uint32]

VALUES, COLORS = 2**8, 2**24
"""Number of values that a pixel of an index mask or of a color mask can have."""

VOID: Color = (224, 224, 192)
"""Color of the borders in PASCAL VOC."""


@dataclass(frozen=True)
class LabelMap:
    """Map from the code of a pixel, its value or packed color, to its label.

    Args:
        codes: pairs of a code and its label, 0..K-1 or `IGNORE`.
        kind: kind of the codes: `value` for 0..255, `color` for the result of `pack`.
        unknown: whether unlisted codes are errors or become `IGNORE`.
    """

    codes: tuple[tuple[int, int], ...]
    kind: Literal["value", "color"] = "value"
    unknown: Literal["error", "ignore"] = "error"

    def apply(self, codes: Codes, path: Path) -> NDArray[np.uint8]:
        """Return the labels of a mask.

        Args:
            codes: (H, W) uint8 values or uint32 packed colors.
            path: path of the mask file, for messages.

        Returns:
            (H, W) uint8, 0..K-1 or `IGNORE`.

        Raises:
            DatasetError: an unlisted code, if `unknown` is `error`.
        """
        labels = _table(self.codes, VALUES if self.kind == "value" else COLORS).take(codes)
        if self.unknown == "error":
            ignored = codes[labels == IGNORE]  # includes unlisted codes
            unlisted = ignored[~np.isin(ignored, [code for code, _ in self.codes])]
            if unlisted.size:
                raise self._unknown(int(unlisted[0]), path)
        return labels

    def invert(self, mask: NDArray[np.uint8], path: Path) -> Codes:
        """Return codes of which `apply` makes a mask, the lowest one of each label.

        Args:
            mask: (H, W) uint8, 0..K-1 or `IGNORE`.
            path: path of the mask file, for messages.

        Raises:
            DatasetError: a label without a code.
        """
        code_of = {label: code for code, label in reversed(self.codes)}
        table: NDArray[Any] = np.zeros(VALUES, np.uint8 if self.kind == "value" else np.uint32)
        for label in np.unique(mask).tolist():
            if label not in code_of:
                what = "ignore" if label == IGNORE else f"the class of label {label}"
                raise DatasetError(
                    f"{path}: got {what}, expected a {self.kind} for it in data.toml: add one to "
                    f"{'ignore' if label == IGNORE else self.kind + 's'}"
                )
            table[label] = code_of[label]
        codes: Codes = table[mask]
        return codes

    def _unknown(self, code: int, path: Path) -> DatasetError:
        if self.kind == "color":
            got, table = f"the color {list(unpack(code))}", "colors"
            expected = f"one of the {len(self.codes)} colors that data.toml lists"
        else:
            got, table = f"the value {code}", "labels"
            expected = f"one of {', '.join(str(listed) for listed, _ in sorted(self.codes))}"
        return DatasetError(
            f"{path}: got {got}, expected {expected}: add it to {table} or ignore in data.toml, "
            f'or set unknown = "ignore"'
        )


Palettes = Literal["index", "gray"] | LabelMap
"""Reading of a mask with a palette: by index, as gray levels of its palette, or by color."""


def white_of(labels: LabelMap | None) -> int:
    """Return the value of white in a 1-bit mask: 255 if the map has a class for 255 but no 1, or else 1."""
    label_of = dict(() if labels is None else labels.codes)
    return IGNORE if label_of.get(IGNORE, IGNORE) != IGNORE and 1 not in label_of else 1


def pack(color: Color) -> int:
    """Return a color as a 24-bit number, red in the lowest byte.

    Example:
        >>> pack((1, 2, 3)) == 1 + 2 * 256 + 3 * 65536
        True
    """
    red, green, blue = color
    return red | green << 8 | blue << 16


def unpack(code: int) -> Color:
    """Return the color of a 24-bit number."""
    return code & 255, code >> 8 & 255, code >> 16 & 255


def gray_levels(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of an image with a gray palette as gray levels, (H, W) uint8."""
    table = np.zeros(VALUES, np.uint8)  # indices beyond the palette are black, as in Pillow
    reds = (image.getpalette("RGB") or [])[::3]
    table[: len(reds)] = reds
    return table.take(np.asarray(image, np.uint8))


def packed(image: Image.Image) -> NDArray[np.uint32]:
    """Return the packed colors of an image of any mode, (H, W) uint32; transparency is dropped."""
    pixels = np.asarray(image.convert("RGBA"))  # four bytes a pixel can be viewed as one integer
    return pixels.view("<u4")[..., 0] & np.uint32(COLORS - 1)


@lru_cache(maxsize=4)
def _table(codes: tuple[tuple[int, int], ...], size: int) -> NDArray[np.uint8]:
    """Return a lookup table from codes to labels, (size,) uint8; for colors 16 MB, built once per process."""
    table = np.full(size, IGNORE, np.uint8)
    for code, label in codes:
        table[code] = label
    return table
