"""Prediction of a large image in overlapping tiles at its original size, with logits blended.

The weight of a tile's logits falls linearly to zero over the middle half of the overlap, toward the sides of
the tile: pixels at a side lack context. Networks enlarge their features with aligned corners, which moves
them toward the far side, by the side's rest modulo the stride: tiles have the rest of the images of the
training (`Tiling.fitted`). Beside image and outputs, memory holds the logits of one batch of tiles and of one
strip across the image, as high as the overlap; with `predict_rows`, neither of the first two is held.
"""

from __future__ import annotations

import math
import re
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from zoo.errors import BundleError
from zoo.predictors.base import Prediction
from zoo.predictors.exported import from_logits
from zoo.predictors.limits import LARGEST, OVERLAP, SMALLEST
from zoo.predictors.outputs import LOGITS, MASK, OUTPUTS
from zoo.preprocess import check_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from zoo.predictors.base import Predictor

    Floats = NDArray[np.float32]

LEAST_WEIGHT = 1e-5
"""Weight of pixels at the side of a tile, which count where no other tile covers them."""


class Rows(Protocol):
    """An image of which rows are read: an array, or a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (H, W, C)."""

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        """Return rows of the image, (h, W, C)."""


STRIDE = 32
"""Largest distance in pixels between cells of features; tiles begin at multiples of it."""


class Tiling(NamedTuple):
    """How an image is cut into tiles.

    Args:
        side: height and width of a tile in pixels; a smaller image is one tile of its own size.
        overlap: smallest share of a tile's side that it shares with the next one, in [0, 1).
    """

    side: int
    overlap: float

    def __str__(self) -> str:
        """Return a name, e.g. `tile-1024-0.25`."""
        return f"tile-{self.side}-{self.overlap:g}"

    @classmethod
    def of(cls, tile: int | None, overlap: float) -> Tiling | None:
        """Return the tiling with tiles of a side in pixels, None for whole images.

        Raises:
            BundleError: a side or an overlap out of range, or an overlap without tiles.
        """
        if tile is None and overlap == OVERLAP:
            return None
        if tile is None or tile < SMALLEST or not 0 <= overlap <= LARGEST:
            raise BundleError(
                f"got tile {tile} and overlap {overlap:g}, expected a tile of {SMALLEST} pixels or more and "
                f"an overlap from 0 to {LARGEST}"
            )
        return cls(tile, overlap)

    @staticmethod
    def is_name(name: str) -> bool:
        """Return whether a name is that of a tiling."""
        return re.fullmatch(r"tile-[1-9]\d+-0(\.\d+)?", name) is not None

    @classmethod
    def named(cls, name: str) -> Tiling:
        """Return the tiling of a name from `str`."""
        _, side, overlap = name.split("-")
        return cls(int(side), float(overlap))

    def tile_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of the tiles of an image of (height, width) `size`."""
        return min(self.side, size[0]), min(self.side, size[1])

    def fitted(self, predictor: Predictor, size: tuple[int, int]) -> Tiling:
        """Return the tiling with sides that have the training crop's remainder modulo `STRIDE`.

        Sides are enlarged for it. The tiling is unchanged for a model that does not take such a side, e.g. a
        file of a fixed size.

        Args:
            predictor: model that predicts.
            size: height and width of the image.
        """
        rest, other = (side % STRIDE for side in predictor.preprocessing.imgsz)
        if self.side < STRIDE or rest != other:
            return self
        tiling = self._replace(side=self.side + (rest - self.side) % STRIDE)
        return tiling if predictor.limits.fits(tiling.tile_of(size)) else self

    def starts(self, length: int) -> list[int]:
        """Return the starts of tiles along an axis, evenly spaced: multiples of `STRIDE`, and the last one.

        Example:
            >>> Tiling(4, 0.25).starts(10)
            [0, 3, 6]
        """
        step = self.side - math.ceil(self.overlap * self.side)
        if length <= self.side:
            return [0]
        unit = STRIDE if step >= STRIDE else 1
        units = math.ceil((length - self.side) / unit)
        count = math.ceil(units / max(1, step // unit))
        return [min(index * units // count * unit, length - self.side) for index in range(count + 1)]

    def weights(self, side: int) -> Floats:
        """Return the weight of each pixel along the side of a tile, (side,)."""
        inside = np.arange(side, dtype=np.float32) + np.float32(0.5)
        ramp = max(1.0, self.overlap * side)
        near = np.minimum(inside, side - inside) / ramp
        weights: Floats = np.clip(2 * near - 0.5, LEAST_WEIGHT, 1).astype(np.float32)
        return weights


class Axis(NamedTuple):
    """Tiles along one axis of an image."""

    starts: list[int]
    side: int
    weights: Floats
    """(side,), weights of each tile."""
    total: Floats
    """(length,), sum of the weights of all tiles at each pixel."""

    @classmethod
    def of(cls, tiling: Tiling, length: int) -> Axis:
        """Return the tiles of an axis of this length."""
        side, starts = min(tiling.side, length), tiling.starts(length)
        weights = tiling.weights(side) if len(starts) > 1 else np.ones(side, np.float32)
        total = np.zeros(length, np.float32)
        for start in starts:
            total[start : start + side] += weights
        return cls(starts, side, weights, total)

    def final(self, index: int) -> int:
        """Return where the pixels of a tile end that no later tile covers."""
        return self.starts[index + 1] if index + 1 < len(self.starts) else len(self.total)


def check_tiling(predictor: Predictor, outputs: Sequence[str] = ()) -> None:
    """Raise unless a model returns the logits that tiles are blended by, and outputs are computed from them.

    Raises:
        BundleError: it returns only masks, or an output is calibrated for the logits of one forward pass.
    """
    for name in outputs:
        if OUTPUTS[name].calibrated:
            raise BundleError(
                f"got {name} with tiles, expected one of both: it is calibrated for whole images, not for "
                f"the blended logits of tiles"
            )
    if LOGITS not in predictor.available:
        raise BundleError(
            f"tiles are blended by logits, but this {predictor.backend} artifact returns only "
            f"{' and '.join(predictor.available)}: use the bundle, or export again with --output mask+logits"
        )


def predict_tiles(
    predictor: Predictor,
    image: NDArray[Any],
    tiling: Tiling,
    outputs: Sequence[str] = (MASK,),
    batch: int = 1,
) -> Prediction:
    """Return outputs of an image of any size at that size, from tiles that are not resized.

    Args:
        predictor: model with logits.
        image: (H, W, C) of the format of the model.
        tiling: size and overlap of the tiles.
        outputs: names of outputs (`zoo.predictors.outputs`).
        batch: number of tiles in a batch.

    Raises:
        InvalidImageError: an array of another format, or tiles of a size that the model refuses.
        BundleError: the model returns no logits.
    """
    check_tiling(predictor, outputs)
    check_image(image, predictor.format)
    found: dict[str, NDArray[Any]] = {}
    for top, rows in predict_rows(predictor, image, tiling, outputs, batch):
        for name, values in rows.items():
            if name not in found:
                found[name] = np.empty((*values.shape[:-2], *image.shape[:2]), values.dtype)
            found[name][..., top : top + values.shape[-2], :] = values
    return Prediction(found)


def predict_rows(
    predictor: Predictor, image: Rows, tiling: Tiling, outputs: Sequence[str], batch: int
) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    """Yield the outputs of an image from top to bottom: the first row, and rows of each output by name.

    Args:
        predictor: model with logits.
        image: (H, W, C) of the format of the model.
        tiling: size and overlap of the tiles.
        outputs: names of outputs (`zoo.predictors.outputs`).
        batch: number of tiles in a batch.

    Raises:
        InvalidImageError: tiles of a size that the model refuses.
    """
    size = image.shape[0], image.shape[1]
    tiling = tiling.fitted(predictor, size)
    predictor.limits.check(tiling.tile_of(size), size)
    parts = blended(predictor, image, tiling, batch)
    for top, row in groupby(parts, key=lambda part: part[0]):
        found = [from_logits(logits[None], outputs) for _, _, logits in row]
        yield top, {name: np.concatenate([each[name][0] for each in found], axis=-1) for name in outputs}


def blended(
    predictor: Predictor, image: Rows, tiling: Tiling, batch: int
) -> Iterator[tuple[int, int, Floats]]:
    """Yield parts of an image, which cover it once: top, left and (K, h, w) blended logits.

    Args:
        predictor: model with logits.
        image: (H, W, C) of the format of the model.
        tiling: size and overlap of the tiles.
        batch: number of tiles in a batch.
    """
    rows, columns = (Axis.of(tiling, length) for length in image.shape[:2])
    classes, width = len(predictor.classes), image.shape[1]
    shared = max(rows.starts[row] + rows.side - rows.final(row) for row in range(len(rows.starts)))
    above = np.zeros((classes, shared, width), np.float32)  # sums of rows of tiles that reach into the next
    height = 0  # of `above`
    for row, top in enumerate(rows.starts):
        bottom = rows.final(row)
        beside = np.zeros((classes, rows.side, 0), np.float32)  # the same of earlier tiles of this row
        tiles = _logits_of_row(predictor, image[top : top + rows.side], columns, batch)
        for column, (left, logits) in enumerate(zip(columns.starts, tiles, strict=True)):
            right = columns.final(column)
            total = logits * rows.weights[:, None] * columns.weights
            total[:, :, : beside.shape[2]] += beside
            beside = total[:, :, right - left :].copy()
            total = total[:, :, : right - left]
            total[:, :height] += above[:, :height, left:right]
            above[:, : top + rows.side - bottom, left:right] = total[:, bottom - top :]
            weight = rows.total[top:bottom, None] * columns.total[left:right]
            yield top, left, total[:, : bottom - top] / weight
        height = top + rows.side - bottom


def _logits_of_row(predictor: Predictor, strip: NDArray[Any], columns: Axis, batch: int) -> Iterator[Floats]:
    """Yield the (K, h, w) logits of each tile of a strip of an image, from left to right.

    Args:
        predictor: model with logits.
        strip: (h, W, C) of the format of the model.
        columns: tiles across the strip.
        batch: number of tiles in a batch.
    """
    (least, *_), (most, *_) = predictor.limits
    batch = min(max(batch, least), most)
    for begin in range(0, len(columns.starts), batch):
        starts = columns.starts[begin : begin + batch]
        padding = [starts[-1]] * (least - len(starts))  # for a file with a fixed batch
        images = np.stack([strip[:, left : left + columns.side] for left in (*starts, *padding)])
        logits = predictor.logits(images)
        assert logits is not None
        yield from logits[: len(starts)]
