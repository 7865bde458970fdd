from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from zoo.classes import Classes
from zoo.errors import BundleError, InvalidImageError
from zoo.predictors.base import Predictor
from zoo.predictors.limits import Limits
from zoo.predictors.outputs import CONFIDENCE, LOGITS, MASK, RELIABILITY
from zoo.predictors.tiles import Axis, Tiling, blended, predict_tiles
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Local(Predictor):
    """A model whose logits depend on the pixel and, by `context`, on its distance to the tile's border."""

    backend = "local"

    def __init__(
        self, context: float = 0.0, outputs: tuple[str, ...] = (MASK, LOGITS), least: int = 1
    ) -> None:
        super().__init__(Classes.of(("a", "b", "c")), Preprocessing(imgsz=(32, 32), resize="none"))
        self.context, self.outputs, self.least = context, outputs, least
        self.batches: list[tuple[int, ...]] = []

    @property
    def available(self) -> tuple[str, ...]:
        return self.outputs

    @property
    def limits(self) -> Limits:
        return Limits((self.least, 8, 8))

    def infer(self, images: NDArray[np.uint8], outputs: Sequence[str] = (MASK,)) -> dict[str, NDArray[Any]]:
        self.batches.append(images.shape)
        logits = images.transpose(0, 3, 1, 2).astype(np.float32) / 8
        height, width = images.shape[1:3]
        border = np.minimum(np.arange(width), np.arange(width)[::-1])[None] + np.zeros((height, 1))
        logits[:, 0] += self.context * (border < 2)
        return {name: logits if name == LOGITS else logits.argmax(axis=1) for name in outputs}


def image_of(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.5, 0.7])
@pytest.mark.parametrize("size", [(16, 16), (10, 40), (33, 17), (50, 61)])
def test_the_parts_cover_the_image_once_with_the_logits_of_one_pass(
    size: tuple[int, int], overlap: float
) -> None:
    model, image = Local(), image_of(*size)
    covered = np.zeros(size, int)
    for top, left, logits in blended(model, image, Tiling(16, overlap), 3):
        place = np.s_[top : top + logits.shape[1], left : left + logits.shape[2]]
        covered[place] += 1
        expected = image[place].transpose(2, 0, 1).astype(np.float32) / 8
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert (covered == 1).all()


def literal(model: Local, image: NDArray[np.uint8], tiling: Tiling) -> NDArray[np.float64]:
    """The weighted mean of the logits of all tiles, in whole images."""
    rows, columns = (Axis.of(tiling, length) for length in image.shape[:2])
    total, weight = np.zeros((3, *image.shape[:2])), np.zeros(image.shape[:2])
    for top in rows.starts:
        for left in columns.starts:
            place = np.s_[top : top + rows.side, left : left + columns.side]
            factor = np.outer(rows.weights, columns.weights).astype(float)
            logits = model.logits(image[place][None])
            assert logits is not None
            total[:, *place] += factor * logits[0]
            weight[place] += factor
    return total / weight


@pytest.mark.parametrize("overlap", [0.25, 0.6])
def test_where_tiles_overlap_their_logits_are_blended_by_the_distance_to_their_sides(overlap: float) -> None:
    model, image, tiling = Local(context=50.0), image_of(37, 53), Tiling(16, overlap)
    expected = literal(model, image, tiling)
    got = predict_tiles(model, image, tiling, (LOGITS, MASK, CONFIDENCE), batch=2).outputs
    np.testing.assert_allclose(got[LOGITS], expected, rtol=1e-4, atol=1e-4)
    assert (got[MASK] == expected.argmax(axis=0)).mean() > 0.999
    assert got[MASK].dtype == got[CONFIDENCE].dtype == np.uint8
    assert got[MASK].shape == got[CONFIDENCE].shape == (37, 53)


def test_tiles_overlap_by_at_least_the_share_that_is_asked_for() -> None:
    for length in range(16, 120):
        starts = Tiling(16, 0.25).starts(length)
        assert starts[0] == 0
        assert starts[-1] == length - 16
        assert all(0 < b - a <= 12 for a, b in pairwise(starts))


@pytest.mark.parametrize(("imgsz", "side"), [((97, 65), 65), ((96, 32), 64), ((65, 64), 60)])
def test_tiles_have_the_rest_modulo_the_stride_of_the_images_of_the_training(
    imgsz: tuple[int, int], side: int
) -> None:
    model = Local()
    model.preprocessing = Preprocessing(imgsz=imgsz, resize="none")
    predict_tiles(model, image_of(70, 200), Tiling(60, 0.25))
    assert {shape[1:3] for shape in model.batches} == {(side, side)}


def test_tiles_begin_where_the_cells_of_features_do() -> None:
    for length in range(98, 600, 7):
        starts = Tiling(97, 0.25).starts(length)
        assert all(start % 32 == 0 for start in starts[:-1])
        assert starts[-1] == length - 97
        assert all(0 < b - a <= 97 - 24 for a, b in pairwise(starts))


def test_an_image_that_fits_is_one_tile_of_its_own_size() -> None:
    model = Local()
    predict_tiles(model, image_of(12, 15), Tiling(16, 0.25))
    assert model.batches == [(1, 12, 15, 3)]


def test_memory_does_not_grow_with_the_height_of_the_image() -> None:
    model = Local()
    parts = [part.shape for _, _, part in blended(model, image_of(400, 40), Tiling(16, 0.25), 2)]
    assert max(height for _, height, _ in parts) <= 16
    assert max(shape[0] for shape in model.batches) == 2


def test_a_file_with_a_fixed_batch_gets_whole_batches() -> None:
    model = Local(least=4)
    predict_tiles(model, image_of(16, 40), Tiling(16, 0.25))
    assert {shape[0] for shape in model.batches} == {4}


def test_what_tiles_cannot_do_is_one_line() -> None:
    with pytest.raises(
        BundleError, match=r"blended by logits, .* returns only mask: use the bundle"
    ) as caught:
        predict_tiles(Local(outputs=(MASK,)), image_of(20, 20), Tiling(16, 0.25))
    assert "\n" not in str(caught.value)
    with pytest.raises(BundleError, match="got reliability with tiles, expected one of both"):
        predict_tiles(Local(), image_of(20, 20), Tiling(16, 0.25), (MASK, RELIABILITY))
    with pytest.raises(InvalidImageError, match=r"got an image of 20 x 20 \(4 x 4 at the network\)"):
        predict_tiles(Local(), image_of(20, 20), Tiling(4, 0.25))
