import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from zoo.data.open import open_source
from zoo.data.shapes import NAMES, ShapesSource
from zoo.errors import DatasetError
from zoo.train.recipe.read import default_recipe

SOURCE = ShapesSource()
DIGEST = """
import hashlib
from zoo.data.shapes import ShapesSource
source = ShapesSource()
pixels = source.read_image("train/0007").tobytes() + source.read_mask("train/0007").tobytes()
print(hashlib.sha256(pixels).hexdigest())
"""


def test_the_splits_have_their_counts_and_ids():
    assert [len(SOURCE.ids(split)) for split in ("train", "unlabeled", "val")] == [480, 0, 96]
    assert SOURCE.ids("train")[7] == "train/0007"
    assert SOURCE.ids("val")[-1] == "val/0095"


def test_an_image_is_rgb_and_its_mask_holds_labels():
    image, mask = SOURCE.read_image("train/0000"), SOURCE.read_mask("train/0000")
    assert (image.shape, image.dtype) == ((96, 96, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((96, 96), np.uint8)
    assert mask.max() < len(SOURCE.classes) == len(NAMES) == 7


def test_another_process_draws_the_same_pixels():
    pixels = SOURCE.read_image("train/0007").tobytes() + SOURCE.read_mask("train/0007").tobytes()
    output = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True).stdout
    assert output.strip() == hashlib.sha256(pixels).hexdigest()


def test_the_order_of_reading_and_threads_change_nothing():
    ids = SOURCE.ids("val")[:16]
    with ThreadPoolExecutor(4) as pool:
        backwards = list(pool.map(ShapesSource().read_image, ids[::-1]))
    assert all(
        np.array_equal(SOURCE.read_image(id_), image) for id_, image in zip(ids, backwards[::-1], strict=True)
    )


def test_ids_splits_and_seeds_give_different_images():
    images = [SOURCE.read_image("train/0000"), SOURCE.read_image("train/0001"), SOURCE.read_image("val/0000")]
    images.append(ShapesSource(seed=1).read_image("train/0000"))
    assert len({image.tobytes() for image in images}) == 4


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (130, 97)])
def test_any_size_can_be_drawn(size):
    source = ShapesSource(size=size)
    assert source.read_image("val/0003").shape == (*size, 3)
    assert source.read_mask("val/0003").shape == size


def test_every_class_is_common_and_none_dominates():
    counts = sum(np.bincount(SOURCE.read_mask(id_).ravel(), minlength=7) for id_ in SOURCE.ids("val"))
    share = counts / counts.sum()
    assert 0.6 < share[0] < 0.9
    assert share[1:].min() > 0.01
    assert share[1:].max() < 3 * share[1:].min()


def test_the_edges_of_a_mask_are_where_the_image_changes():
    inside, across = [], []
    for id_ in SOURCE.ids("val")[:30]:
        image, mask = SOURCE.read_image(id_).astype(int), SOURCE.read_mask(id_)
        step = np.abs(np.diff(image, axis=1)).sum(axis=2)
        edge = mask[:, 1:] != mask[:, :-1]
        across.append(step[edge].mean())
        inside.append(step[~edge].mean())
    assert np.mean(across) > 1.5 * np.mean(inside)


def test_the_number_of_validation_images_can_be_set_and_keeps_the_first_ones():
    more = open_source("shapes:120")
    assert [len(more.ids(split)) for split in ("train", "val")] == [480, 120]
    assert more.ids("val")[:96] == SOURCE.ids("val")
    np.testing.assert_array_equal(more.read_image("val/0003"), SOURCE.read_image("val/0003"))
    assert default_recipe("eln", "shapes:120") == default_recipe("eln", "shapes")


@pytest.mark.parametrize("val", ["", "0", "-3", "many", "10001", "1e3", "\N{SUPERSCRIPT TWO}"])
def test_another_number_of_validation_images_is_refused(val):
    with pytest.raises(DatasetError, match=f"got '{val}', expected a number of validation images"):
        open_source(f"shapes:{val}")
