from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from zoo.classes import IGNORE, Classes
from zoo.evaluation.boundary import BoundaryIou, boundary

CLASSES = Classes.of(("a", "b", "c"))


def literal_boundary(region: np.ndarray, width: int) -> np.ndarray:
    """Return the pixels of a region with one outside it, or outside the image, in the square around them."""
    result = np.zeros_like(region)
    height, length = region.shape
    for y in range(height):
        for x in range(length):
            around = [
                0 <= y + dy < height and 0 <= x + dx < length and region[y + dy, x + dx]
                for dy in range(-width, width + 1)
                for dx in range(-width, width + 1)
            ]
            result[y, x] = region[y, x] and not all(around)
    return result


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.integers(1, 3))
@settings(max_examples=60)
def test_a_boundary_equals_a_literal_loop(region: np.ndarray, width: int) -> None:
    assert np.array_equal(boundary(region, width), literal_boundary(region, width))


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_the_iou_is_that_of_literal_sets_over_all_images(seed: int) -> None:
    random = np.random.default_rng(seed)
    counter = BoundaryIou(3, ratio=0.1)
    both, either = np.zeros(3), np.zeros(3)
    for size in ((12, 9), (7, 7)):
        label = random.choice(np.array([0, 1, IGNORE], np.uint8), size)
        prediction = random.integers(0, 2, size).astype(np.uint8)
        counter.update(label, prediction)
        width = max(1, round(0.1 * np.hypot(*size)))
        for k in range(3):
            truth = literal_boundary((label == k) & (label != IGNORE), width)
            found = literal_boundary((prediction == k) & (label != IGNORE), width)
            both[k] += (truth & found).sum()
            either[k] += (truth | found).sum()
    result = counter.as_dict(CLASSES)
    assert result["boundary_iou"]["c"] is None
    expected = both[:2] / either[:2]
    assert [result["boundary_iou"][name] for name in "ab"] == pytest.approx(expected)
    assert result["boundary_miou"] == pytest.approx(expected.mean())


def test_equal_masks_score_one_and_a_shift_costs_more_than_in_the_iou() -> None:
    label = np.zeros((60, 80), np.uint8)
    label[20:40, 20:60] = 1
    same, moved = BoundaryIou(3), BoundaryIou(3)
    same.update(label, label)
    assert same.as_dict(CLASSES)["boundary_miou"] == 1.0
    prediction = np.roll(label, 2, axis=1)
    moved.update(label, prediction)
    iou = np.sum((label == 1) & (prediction == 1)) / np.sum((label == 1) | (prediction == 1))
    near = moved.as_dict(CLASSES)["boundary_iou"]["b"]
    assert 0 < near < iou < 1


def test_nothing_counted_is_no_figure() -> None:
    counter = BoundaryIou(3)
    counter.update(np.full((5, 5), IGNORE, np.uint8), np.zeros((5, 5), np.uint8))
    assert counter.as_dict(CLASSES) == {"boundary_miou": None, "boundary_iou": dict.fromkeys("abc")}
