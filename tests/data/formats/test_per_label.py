"""Masks of one file for each label are merged; other masks with an addition to their names are not."""

import numpy as np
import pytest
from PIL import Image

from zoo.data.cache.disk import DiskCache
from zoo.data.check import check_source
from zoo.data.files import paths_of
from zoo.data.folder import FolderSource
from zoo.data.inspect.inspection import inspect
from zoo.errors import DatasetError

HEIGHT, WIDTH = 48, 64
RANDOM = np.random.default_rng(0)
LABELS = np.zeros((HEIGHT, WIDTH), np.uint8)
LABELS[16:32], LABELS[32:] = 1, 2
COLORS = np.array([[0, 0, 0], [250, 50, 83], [51, 221, 255]], np.uint8)[LABELS]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "d"


def mask(root, name, pixels):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / name)


def image(root, *names):
    for name in names:
        mask(root, name, RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))


def per_label(root):
    for split, names in (("train", "ab"), ("val", "c")):
        for name in names:
            image(root, f"{split}/images/{name}.jpg", f"{split}/images/{name}_1.jpg")
            for label, number in (("cat", 1), ("dog", 2)):
                pixels = np.where(number == LABELS, 255, 0).astype(np.uint8)
                for stem in (name, f"{name}_1"):
                    mask(root, f"{split}/masks/{stem}_{label}.png", pixels=pixels)


def test_files_of_one_label_each_are_merged(root):
    per_label(root)
    source = FolderSource(str(root))
    assert source.tool == "one mask for each label"
    assert source.classes.names == ("background", "cat", "dog")
    assert source.ids("train") == ("train/a", "train/a_1", "train/b", "train/b_1")
    assert np.array_equal(source.read_mask("train/a_1"), LABELS)
    check_source(source)
    assert not inspect(str(root)).has_faults
    mask(root, "train/masks/b_dog.png", pixels=LABELS[:20])
    with pytest.raises(DatasetError, match=r"b_dog\.png: got a mask of 64x20 pixels, expected 64x48"):
        check_source(FolderSource(str(root)))


@pytest.mark.parametrize(
    "kinds",
    [
        {"gt": LABELS},
        {"labelIds": LABELS},
        {"gt": np.minimum(LABELS, 1)},
        {"gt": LABELS, "seg": LABELS},
        {"gt": LABELS, "color": COLORS},
        {"cat": np.minimum(LABELS, 1) * 255, "color": COLORS},
        {f"{number:03}": np.minimum(LABELS, 1) for number in range(4)},
        {f"item{number:03}": np.zeros((2, 2), np.uint8) for number in range(260)},
    ],
    ids=lambda kinds: f"{len(kinds)} of {next(iter(kinds))}",
)
def test_masks_with_an_addition_to_their_names_are_not_those_of_labels(root, kinds):
    for name in "ab":
        image(root, f"train/images/{name}.png")
        for kind, pixels in kinds.items():
            mask(root, f"train/masks/{name}_{kind}.png", pixels=pixels)
    with pytest.raises(
        DatasetError, match=r"got no mask a\.png in .* but a_.*: rename it as its image"
    ) as caught:
        FolderSource(str(root))
    assert len(str(caught.value)) < 500


def test_a_file_of_a_label_with_more_values_is_named_when_it_is_drawn(root):
    for name in "abcdefg":
        image(root, f"train/images/{name}.png", f"val/images/{name}.png")
        for split in ("train", "val"):
            for label, number in (("cat", 1), ("dog", 2)):
                mask(root, f"{split}/masks/{name}_{label}.png", pixels=(number == LABELS).astype(np.uint8))
    mask(root, "train/masks/b_dog.png", pixels=LABELS)
    source = FolderSource(str(root))
    assert np.array_equal(source.read_mask("train/a"), LABELS)
    with pytest.raises(DatasetError, match=r"b_dog\.png: got a mask of several values .*: export it again"):
        source.read_mask("train/b")


def test_every_file_of_a_mask_in_parts_is_listed(root):
    per_label(root)
    pair = FolderSource(str(root)).files["train/a"]
    assert [path.rpartition("/")[2] for path in paths_of([pair])] == ["a.jpg", "a_cat.png", "a_dog.png"]


def test_a_change_of_any_file_of_a_mask_is_another_entry_of_the_disk_cache(root, tmp_path):
    per_label(root)
    cache = DiskCache(FolderSource(root), tmp_path / "pixels", None)
    cache.put("mask", "train/a", LABELS)
    assert np.array_equal(cache.get("mask", "train/a"), LABELS)
    mask(root, "train/masks/a_dog.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    assert cache.get("mask", "train/a") is None
