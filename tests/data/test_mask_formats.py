"""Mask files whose content, whatever their name says, cannot hold labels as they were drawn."""

import numpy as np
import pytest
from PIL import Image

from zoo.data.check import check_source
from zoo.data.files import read_mask_file
from zoo.data.folder import FolderSource
from zoo.data.inspect.inspection import inspect
from zoo.errors import DatasetError

LABELS = np.arange(64, dtype=np.uint8).reshape(8, 8) // 22


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
            Image.fromarray(LABELS if kind == "masks" else LABELS * 7).save(tmp_path / split / kind / "a.png")
    return tmp_path


def kinds(folder):
    return [finding.kind for finding in inspect(str(folder)).findings]


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.png", {"format": "JPEG"}), ("a.tif", {"compression": "jpeg"}), ("a.bmp", {"format": "WEBP"})],
)
def test_a_lossy_mask_is_a_fault_whatever_its_suffix(folder, name, options):
    path = folder / "train/masks" / name
    (folder / "train/masks/a.png").unlink()
    Image.fromarray(LABELS).save(path, **options)
    assert "lossy-mask" in kinds(folder)
    with pytest.raises(DatasetError, match="which changes its values"):
        FolderSource(str(folder))
    with pytest.raises(DatasetError, match="which changes its values"):
        read_mask_file(path)


def test_a_folder_of_masks_of_another_name_is_named(folder):
    (folder / "train/masks").rename(folder / "train/labels")
    with pytest.raises(DatasetError, match="masks: got no such folder, but labels with masks"):
        FolderSource(str(folder))


@pytest.mark.parametrize(("split", "name"), [("val", "valid"), ("val", "Val"), ("train", "training")])
def test_a_folder_of_a_split_of_another_name_is_named(folder, split, name):
    (folder / split).rename(folder / name)
    with pytest.raises(DatasetError, match=f"got no folder {split} but {name}, expected {split}: rename it"):
        check_source(FolderSource(str(folder)))


@pytest.mark.parametrize(("suffix", "words"), [(".gif", "is not read"), (".JPG", "changes its values")])
def test_a_mask_of_another_suffix_is_named(folder, suffix, words):
    path = folder / "train/masks/a.png"
    path.rename(path.with_suffix(suffix))
    with pytest.raises(DatasetError, match=rf"a\{suffix}: got a mask in a format that {words}"):
        FolderSource(str(folder))


@pytest.mark.parametrize(("color", "is_fault"), [((255, 0, 0), True), ((0, 0, 0), False)])
def test_a_color_of_transparent_and_of_visible_pixels_is_a_fault(folder, color, is_fault):
    pixels = np.full((8, 8, 4), (255, 0, 0, 255), np.uint8)
    pixels[:4] = (*color, 0)
    for split in ("train", "val"):
        Image.fromarray(pixels).save(folder / split / "masks/a.png")
    assert ("transparent-mask" in kinds(folder)) == is_fault
