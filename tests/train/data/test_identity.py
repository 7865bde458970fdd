"""A resumed run notices that its data changed, before it takes a step."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from zoo.data.cache import memo
from zoo.data.folder import FolderSource
from zoo.data.partition import Partition
from zoo.errors import DatasetError
from zoo.train.data.identity import check_identity, identity, write_identity
from zoo.train.data.streams import TrainingData
from zoo.train.recipe.schema import Recipe

NAMES = ("class_0", "class_1", "class_2")
USED = ("train/0", "train/1", "train/2")


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Return a folder of data whose identity is written beside it."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(3):
            write(tmp_path / "d" / split / "images" / f"{number}.png", random.integers(0, 255, (8, 8, 3)))
            write(tmp_path / "d" / split / "masks" / f"{number}.png", np.arange(64).reshape(8, 8) % 3)
    write_identity(tmp_path, FolderSource(str(tmp_path / "d")))
    return tmp_path / "d"


def check(folder):
    return check_identity(folder.parent, FolderSource(str(folder)), NAMES, USED)


def toml(text):
    return lambda folder: (folder / "data.toml").write_text(text)


def remove(folder):
    for kind in ("images", "masks"):
        (folder / "train" / kind / "1.png").unlink()


def shift(folder):
    write(folder / "train/masks/2.png", np.arange(1, 65).reshape(8, 8) % 3)


def redraw(folder):
    write(folder / "val/images/0.png", np.zeros((8, 8, 3)))


def test_kept_results_are_of_the_images_that_a_list_holds_out(folder, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(memo, "FEWEST", 1)
    toml('val_list = "val.txt"')(folder)
    for number in range(3):
        for kind in ("images", "masks"):
            path = folder / "val" / kind / f"{number}.png"
            path.rename(path.with_stem(f"v{number}"))
    for chosen in "01":
        (folder / "val.txt").write_text(f"train/{chosen}\n")
        source = FolderSource(str(folder))
        ids = [id_ for split in ("train", "val") for id_ in source.ids(split)]
        assert f"val/{chosen}" in ids
        for _ in range(2):  # written, then read
            assert sorted(identity(FolderSource(str(folder)))["files"]) == sorted(ids)


def test_data_that_did_not_change_are_accepted_also_elsewhere(folder, tmp_path):
    assert check(folder) == []
    shutil.copytree(folder, tmp_path / "moved")
    assert check_identity(tmp_path, FolderSource(str(tmp_path / "moved")), NAMES, USED) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (toml('names = ["sky", "road", "car"]'), "classes sky, road, car, were class_0, class_1, class_2"),
        (toml('names = ["class_2", "class_1", "class_0"]'), "classes class_2, class_1, class_0, were"),
        (
            toml('names = ["class_0", "class_1", "class_2", "x"]'),
            "class_2, x, were class_0, class_1",
        ),
        (toml('[labels]\n0="class_0"\n2="class_1"\n1="class_2"'), "another map from values or colors"),
        (remove, "1 missing image: train/1"),
        (shift, "1 changed mask: train/2"),
        (redraw, "1 changed image: val/0"),
    ],
)
def test_a_change_is_one_line_that_names_it(folder, change, words):
    change(folder)
    with pytest.raises(DatasetError, match=re.escape(words)) as caught:
        check(folder)
    assert "with --data" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_added_images_are_told_and_do_not_stop_a_run(folder):
    write(folder / "unlabeled/new.png", np.ones((8, 8, 3)))
    assert check(folder) == ["unlabeled/new"]


def test_images_added_to_val_are_not_evaluated_by_a_resumed_run(folder):
    for kind in ("images", "masks"):
        write(folder / "val" / kind / "new.png", np.arange(64).reshape(8, 8) % 3)
    data = TrainingData(Recipe.model_construct(), FolderSource(str(folder)), Partition("full", 0, USED, ()))
    resumed = data.without(check(folder))
    assert resumed.source.ids("val") == ("val/0", "val/1", "val/2")
    assert resumed.source.ids("train") == data.source.ids("train")


def test_a_run_of_an_older_version_compares_names_and_used_ids(folder):
    (folder.parent / "data.json").unlink()
    shift(folder)
    assert check(folder) == []
    remove(folder)
    with pytest.raises(DatasetError, match="1 missing image: train/1"):
        check(folder)


@pytest.mark.parametrize("size", [100, 2**17, 2**17 + 1, 300_000])
def test_a_changed_byte_at_either_end_of_a_file_is_noticed(folder, size):
    from zoo.train.data.identity import _of_file

    path, content = folder / "file", bytearray(size)
    hashes = set()
    for at in (None, 0, -1, size // 2 if size <= 2**17 else 1):
        changed = bytearray(content)
        if at is not None:
            changed[at] = 1
        path.write_bytes(changed)
        hashes.add(_of_file(path))
    assert len(hashes) == 4
