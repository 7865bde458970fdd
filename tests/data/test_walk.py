"""One listing of images for every command."""

import logging
import os

import numpy as np
import pytest
from PIL import Image

from zoo.data.check import check_source
from zoo.data.folder import FolderSource
from zoo.data.inspect.inspection import inspect
from zoo.data.walk import walk
from zoo.errors import ZooError
from zoo.predict.inputs import find_inputs


@pytest.fixture
def folder(tmp_path):
    """Return a folder with three pairs of images in train and val, and a store beside it."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(3):
            write(tmp_path / "d" / split / "images" / f"{number}.png", random.integers(0, 255, (40, 40, 3)))
            write(tmp_path / "d" / split / "masks" / f"{number}.png", np.eye(40) * 1)
    for number in range(2):
        write(tmp_path / "store" / "cam" / f"c{number}.png", random.integers(0, 255, (40, 40, 3)))
        write(tmp_path / "store" / "cam_masks" / f"c{number}.png", np.eye(40) * 1)
    return tmp_path / "d"


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def names(folder):
    return [path.relative_to(folder).as_posix() for path in walk(folder, {".png"}).files]


def test_linked_folders_are_entered_by_training_check_and_prediction(folder):
    (folder / "train/images/cam").symlink_to("../../../store/cam")
    (folder / "train/masks/cam").symlink_to("../../../store/cam_masks")
    (folder / "unlabeled").symlink_to("../store")
    source = FolderSource(str(folder))
    assert source.ids("train") == ("train/0", "train/1", "train/2", "train/cam/c0", "train/cam/c1")
    assert len(source.ids("unlabeled")) == 4
    assert inspect(str(folder)).counts()["train"]["masks"] == 5
    assert len(find_inputs([str(folder / "train/images")], 10, folder / "out")) == 5


@pytest.mark.parametrize("target", [".", "..", "../..", "sub", "sub/deep"])
def test_a_link_to_a_folder_that_is_listed_or_above_is_followed_once_at_most(tmp_path, target):
    for name in ("a/0.png", "a/sub/1.png", "a/sub/deep/2.png", "3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/link").symlink_to(target)
    found = walk(tmp_path / "a", {".png"})
    assert names(tmp_path / "a") == ["0.png", "sub/1.png", "sub/deep/2.png"]
    assert found.skipped() == "1 link to a folder listed already (link)"


def test_two_links_to_one_folder_are_entered_once_and_a_link_to_its_parent_adds_the_rest(tmp_path):
    for name in ("store/cam/0.png", "store/1.png", "d/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "d/a").symlink_to("../store/cam")
    (tmp_path / "d/b").symlink_to("../store/cam")
    (tmp_path / "d/c").symlink_to("../store")
    assert names(tmp_path / "d") == ["2.png", "a/0.png", "c/1.png"]
    assert len(walk(tmp_path / "d", {".png"}).again) == 2


@pytest.mark.parametrize(
    "hidden", [".ipynb_checkpoints", ".Trash-1000", "@eaDir", "#recycle", "$RECYCLE.BIN"]
)
def test_hidden_folders_are_left_out_by_training_check_and_prediction_and_reported(folder, hidden, caplog):
    for parent in ("train/images", "train/masks", "val/images", "unlabeled"):
        write(folder / parent / hidden / "copy.png", np.zeros((40, 40, 3)))
    source = FolderSource(str(folder))
    assert len(source.ids("train")) == 3
    assert not source.ids("unlabeled")
    assert [one.kind for one in inspect(str(folder)).findings] == ["hidden-folder"] * 4
    with caplog.at_level(logging.WARNING):
        check_source(source)
        assert len(find_inputs([str(folder / "val")], 10, folder / "out")) == 6
        assert len(find_inputs([str(folder / "val/**/*.png")], 10, folder / "out")) == 6
    assert f"val/images: skipped 1 hidden folder ({hidden})" in caplog.text
    assert f"val: skipped 1 hidden folder ({hidden})" in caplog.text


def test_files_of_other_suffixes_are_counted_in_one_line(folder, caplog):
    for name in ("a.jfif", "b.jfif", "c.avif", "notes.txt", ".DS_Store", "Thumbs.db"):
        (folder / "train/images" / name).write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        check_source(FolderSource(str(folder)))
    line = f"{folder / 'train/images'}: skipped 4 files of another kind (.jfif, .avif, .txt)"
    assert caplog.messages == [line]


def test_a_folder_of_other_suffixes_alone_tells_prediction_what_was_skipped(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jfif").write_bytes(b"x")
    with pytest.raises(ZooError, match=r"no images \(skipped: 1 file of another kind \(\.jfif\)\)"):
        find_inputs([str(tmp_path / "in")], 10, tmp_path / "out")


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    (tmp_path / "broken.png").symlink_to("nothing.png")  # reported where it is read
    (tmp_path / "a.png").touch()
    tree = walk(tmp_path, {".png"})
    assert [path.name for path in tree.files] == ["a.png", "broken.png"]
    assert [path.name for path in tree.others] == ["link.png", "pipe.png"]
