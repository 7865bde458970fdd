from __future__ import annotations

import hashlib
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from zoo.bundle.weights import load_bundle
from zoo.data.open import open_source
from zoo.data.partition import make_partition
from zoo.errors import ExportError
from zoo.export.calibrate import calibration_pool, choose, k_center
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = {"data": {"spec": "shapes"}}
PARTITION = {"spec": "1/16", "seed": 3}


def radius(points: np.ndarray, centers: list[int]) -> float:
    return float(max(min(np.linalg.norm(point - points[center]) for center in centers) for point in points))


def test_the_choice_is_at_most_twice_as_far_from_a_point_as_the_best_one() -> None:
    points = np.random.default_rng(0).normal(size=(12, 3))
    best = min(radius(points, list(centers)) for centers in combinations(range(12), 3))
    assert radius(points, k_center(points, 3)) <= 2 * best


def test_smaller_choices_are_the_beginning_of_larger_ones() -> None:
    points = np.random.default_rng(1).normal(size=(30, 4))
    assert k_center(points, 20)[:7] == k_center(points, 7)


def test_equal_points_are_not_chosen_twice() -> None:
    assert sorted(k_center(np.zeros((5, 2)), 5)) == [0, 1, 2, 3, 4]


def test_the_pool_is_the_unlabeled_part_of_the_run() -> None:
    pool = calibration_pool(None, RECIPE, PARTITION)
    assert set(pool.ids) == set(make_partition(open_source("shapes"), "1/16", 3).unlabeled)
    assert pool.origin == "450 unlabeled images of shapes"


def test_a_run_without_unlabeled_images_is_calibrated_on_the_labeled_ones() -> None:
    pool = calibration_pool(None, RECIPE, {"spec": "full", "seed": 0})
    assert pool.origin == "480 labeled images of shapes"


@pytest.mark.parametrize("recipe", [{}, {"data": {"spec": "/gone"}}])
def test_without_real_images_there_is_no_int8(recipe: dict[str, object]) -> None:
    with pytest.raises(ExportError, match=r"int8 needs real images .* --calibration-data"):
        calibration_pool(None, recipe, PARTITION)


def test_a_folder_of_images_is_a_pool(tmp_path: Path) -> None:
    for index in range(3):
        Image.new("RGB", (40, 20), (index, 0, 0)).save(tmp_path / f"{index}.png")
    pool = calibration_pool(str(tmp_path), {}, {})
    assert pool.ids == ("0.png", "1.png", "2.png")
    assert pool.read("2.png")[0, 0].tolist() == [2, 0, 0]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="int8 needs real images"):
        calibration_pool(str(tmp_path), {}, {})


def test_chosen_images_are_at_the_networks_size_with_the_hashes_of_their_pixels(tiny_bundle: Path) -> None:
    deployable, _ = load_bundle(tiny_bundle)
    pool = calibration_pool(None, RECIPE, PARTITION)
    chosen = choose(pool, 4, deployable, Preprocessing(imgsz=(48, 64)))
    assert [image.shape for image in chosen.images] == [(48, 48, 3)] * 4
    for id_, digest in chosen.sha256.items():
        assert id_ in pool.ids
        assert digest == hashlib.sha256(pool.read(id_).tobytes()).hexdigest()
    assert chosen.origin == "4 of 450 unlabeled images of shapes"
