"""A run is not written among its data."""

import numpy as np
import pytest
from PIL import Image

from zoo.data.open import open_source
from zoo.data.outside import check_outside
from zoo.errors import DatasetError


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / "d" / split / kind).mkdir(parents=True)
            pixels = np.arange(64).reshape(8, 8).astype(np.uint8) % 3
            Image.fromarray(pixels).save(tmp_path / "d" / split / kind / "a.png")
    return tmp_path / "d"


@pytest.mark.parametrize(
    "out", [".", "train/images", "val/images/run", "../d", "train/masks/1", "unlabeled/run"]
)
def test_a_run_among_the_images_is_refused(folder, out):
    with pytest.raises(DatasetError, match="is among the images of"):
        check_outside(folder / out, open_source(str(folder)))


@pytest.mark.parametrize("out", ["runs/1", "../run", "trained"])
def test_a_run_beside_the_images_is_not(folder, out):
    check_outside(folder / out, open_source(str(folder)))


def test_a_run_beside_folders_of_images_is_refused_above_them(folder):
    (folder / "unlabeled/city").mkdir(parents=True)
    (folder / "val/images/a.png").rename(folder / "unlabeled/city/a.png")
    with pytest.raises(DatasetError, match=r"--report .* is among the images of"):
        check_outside(folder / "unlabeled/run", open_source(str(folder)), "--report")


def test_a_folder_named_as_built_in_data_is_mentioned(tmp_path, monkeypatch, caplog):
    (tmp_path / "shapes").mkdir()
    monkeypatch.chdir(tmp_path)
    open_source("shapes")
    assert caplog.messages == ["shapes: the built-in data set is used; --data ./shapes names the folder"]
