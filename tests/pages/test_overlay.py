from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from zoo.classes import IGNORE, Classes
from zoo.pages.overlay import INK, PAPER, areas, boundaries, grid, legend, overlay, picture, triptych

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = Classes(
    ("ground", "tree", "a very long name that no legend has room for at all" * 4),
    ((0, 0, 0), (200, 100, 0), (0, 0, 250)),
)


def scene(height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a gray image whose right half is `tree`."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 1
    return np.full((height, width, 3), 80, np.uint8), mask


def test_a_class_is_blended_with_its_color_and_black_ones_keep_the_image() -> None:
    image, mask = scene(4, 12)
    result = overlay(image, mask, CLASSES, alpha=0.5)
    assert result[0, 0].tolist() == [80, 80, 80]
    assert result[0, 11].tolist() == [140, 90, 40]


def test_a_boundary_is_white_on_one_side_and_dark_on_the_other() -> None:
    image, mask = scene(4, 12)
    result = overlay(image, mask, CLASSES)
    assert result[2, 5].tolist() == list(PAPER)
    assert result[2, 6].tolist() == list(INK)
    assert np.flatnonzero(boundaries(mask)[0]).tolist() == [5]


def test_a_mask_of_one_class_has_no_boundary() -> None:
    assert not boundaries(np.ones((5, 5), np.uint8)).any()


def test_the_arguments_are_not_changed() -> None:
    image, mask = scene(8, 8)
    overlay(image, mask, CLASSES)
    picture(image, mask, CLASSES)
    assert (image == 80).all()
    assert mask.max() == 1


def test_areas_are_shares_of_the_pixels_largest_first() -> None:
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, IGNORE]], np.uint8)
    assert areas(mask) == {1: 0.75, 0: 0.125, IGNORE: 0.125}
    assert next(iter(areas(mask))) == 1


@pytest.mark.parametrize("size", [(32, 32), (32, 700), (900, 20), (1, 1), (300, 500)])
def test_a_picture_is_wide_enough_for_its_legend(size: tuple[int, int]) -> None:
    result = picture(*scene(*size), CLASSES)
    assert result.dtype == np.uint8
    assert result.shape[1] >= 480
    assert result.shape[0] > size[0]


def test_a_small_image_is_enlarged_by_a_whole_factor() -> None:
    image, mask = scene(32, 32)
    result = picture(image, mask, CLASSES)
    assert result.shape[1] == 480
    enlarged = overlay(image.repeat(15, 0).repeat(15, 1), mask.repeat(15, 0).repeat(15, 1), CLASSES)
    assert np.array_equal(result[:480], enlarged)


def test_a_photograph_keeps_its_size_above_the_legend() -> None:
    image, mask = scene(1500, 2000)
    result = picture(image, mask, CLASSES)
    assert result.shape[1] == 2000
    assert np.array_equal(result[:1500], overlay(image, mask, CLASSES))


@pytest.mark.parametrize("width", [480, 1000, 4000])
def test_a_legend_has_the_colors_of_its_classes_and_leaves_its_margin_empty(width: int) -> None:
    strip = legend(CLASSES, {0: 0.5, 1: 0.4999, 2: 0.0001, IGNORE: None}, width)
    assert all((strip == color).all(axis=2).any() for color in CLASSES.palette)
    assert strip.shape[1] == width
    assert (strip[:, -4:] == PAPER).all()


def test_many_classes_take_several_lines() -> None:
    classes = Classes.of(tuple(f"class {label}" for label in range(60)))
    few, many = (legend(classes, dict.fromkeys(range(count), 0.1), 480) for count in (3, 60))
    assert many.shape[0] > 5 * few.shape[0]


def test_a_triptych_shows_image_truth_and_prediction_of_each_row() -> None:
    image, truth = scene(48, 48)
    prediction = np.full_like(truth, 2)
    result = triptych([(image, truth, prediction)] * 2, CLASSES)
    middle = result[36 + 144]
    assert middle[12 + 144].tolist() == [80, 80, 80]
    assert middle[12 + 300 + 10].tolist() == [0, 0, 0]
    assert middle[12 + 300 + 270].tolist() == [200, 100, 0]
    assert middle[12 + 600 + 144].tolist() == [0, 0, 250]


def test_a_grid_has_a_column_for_each_heading() -> None:
    image, truth = scene(48, 48)
    others = [np.full_like(truth, label) for label in (2, 0, 1)]
    result = grid(("image", "truth", "a", "b", "c"), [(image, truth, *others)], CLASSES)
    middle = result[36 + 144]
    colors = [middle[12 + 300 * column + 250].tolist() for column in range(5)]
    assert colors == [[80, 80, 80], [200, 100, 0], [0, 0, 250], [0, 0, 0], [200, 100, 0]]
    assert result.shape[1] == 12 + 5 * 300


def test_a_triptych_takes_rows_of_different_sizes() -> None:
    rows = []
    for size in ((30, 60), (900, 400)):
        image, mask = scene(*size)
        rows.append((image, mask, mask))
    result = triptych(rows, CLASSES)
    assert result.shape[0] > 144 + 648
