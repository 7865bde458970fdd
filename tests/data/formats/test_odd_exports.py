"""Exports with names that repeat, folders of a test, corners far away, and regions to ignore."""

import json

import numpy as np
import pytest

from tests.data.formats.exports import HEIGHT, TRIANGLE, WIDTH, Export, labelme, supervisely, yolo
from zoo.classes import IGNORE
from zoo.data.folder import FolderSource
from zoo.data.formats.regions import fill_polygons
from zoo.errors import DatasetError


@pytest.fixture
def export(tmp_path):
    return Export(tmp_path)


def test_names_of_supervisely_restart_in_each_folder(export):
    supervisely(export)
    (export.root / "train").rename(export.root / "ds1")
    for kind, name in (("img", "a.jpg"), ("ann", "a.jpg.json")):
        export.path(f"ds2/{kind}/{name}").write_bytes((export.root / f"ds1/{kind}/{name}").read_bytes())
    source = FolderSource(str(export.root))
    assert source.ids("train") == ("train/ds1/a", "train/ds1/b", "train/ds2/a")
    assert source.ids("unlabeled") == ("unlabeled/ds1/d",)
    assert source.ids("val") == ("val/c",)


def test_two_images_of_one_name_are_named(export):
    yolo(export)
    export.image("images/val/d.jpg")
    with pytest.raises(DatasetError, match=r"val/d\.jpg: got a second image unlabeled/d beside .*n/d\.jpg"):
        FolderSource(str(export.root))


def test_images_of_a_test_beside_others_are_left_out_and_counted(export):
    export.image("images/a.jpg", "images/b.jpg", "images/test/c.jpg")
    export.mask("masks/a.png", "masks/b.png", "masks/test/c.png")
    source = FolderSource(str(export.root))
    assert source.ids("train") == ("train/a", "train/b")
    assert source.skipped == {export.root: "1 images of images/test/"}


def test_folders_of_splits_may_have_capitals(export):
    for folder, name in (("Train", "a"), ("Val", "b"), ("Test", "c")):
        export.image(f"images/{folder}/{name}.jpg")
        export.mask(f"masks/{folder}/{name}.png")
    source = FolderSource(str(export.root))
    assert (source.ids("train"), source.ids("val")) == (("train/a",), ("val/b",))


def test_labels_of_labelme_in_a_test_folder_are_left_out(export):
    shapes = {"shapes": [{"label": "cat", "points": TRIANGLE, "shape_type": "polygon"}]}
    for name in ("x", "test/y"):
        export.image(f"{name}.jpg")
        export.write(f"{name}.json", shapes)
    assert FolderSource(str(export.root)).ids("train") == ("train/x",)


FAR = [float("nan"), float("inf"), 1e9, -1e9]


@pytest.mark.parametrize("far", FAR)
def test_a_corner_that_is_far_away_is_an_error_of_one_line(export, far):
    labelme(export)
    points = [[0, 0], [far, 0], [9, 9]]
    export.write("train/a.json", {"shapes": [{"label": "cat", "points": points, "shape_type": "polygon"}]})
    with pytest.raises(DatasetError, match=r"a\.json: got a segmentation that cannot be drawn \(a corner"):
        FolderSource(str(export.root)).read_mask("train/a")
    with pytest.raises(ValueError, match="a corner that is not within 1e\\+06 pixels"):
        fill_polygons([[0, 0, far, 0, 9, 9]], (HEIGHT, WIDTH))


@pytest.mark.parametrize("far", [1e9, -1e9])
def test_a_corner_of_supervisely_that_is_far_away_is_an_error_of_one_line(export, far):
    supervisely(export)
    path = export.root / "train/ann/a.jpg.json"
    content = json.loads(path.read_text())
    content["objects"][0]["points"]["exterior"][0][0] = far
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"got an object cat of type polygon that cannot be drawn"):
        FolderSource(str(export.root))


def test_a_region_to_ignore_that_is_drawn_later_lies_on_top(export):
    labelme(export)
    whole = [[0, 0], [WIDTH, HEIGHT]]
    corner = [[0, 0], [8, 8]]
    shapes = [
        {"label": label, "points": points, "shape_type": "rectangle"}
        for label, points in (("cat", whole), ("__ignore__", corner))
    ]
    for name, order in (("a", shapes), ("b", shapes[::-1])):
        export.write(f"train/{name}.json", {"shapes": order})
    source = FolderSource(str(export.root))
    expected = np.ones((HEIGHT, WIDTH), np.uint8)
    assert np.array_equal(source.read_mask("train/b"), expected)
    expected[:8, :8] = IGNORE
    assert np.array_equal(source.read_mask("train/a"), expected)
