"""Exports with names that repeat, folders of a test, corners far away, and regions to ignore."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

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


def picture(mask):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_masks_of_labelme_are_read_pixel_by_pixel(export):
    """LabelMe writes what its models segment as a picture of the box, whose corners belong to it."""
    labelme(export)
    drawn = np.random.default_rng(0).random((5, 9)) > 0.5
    points = [[20.0, 8.0], [28.0, 12.0]]
    shape = {"label": "dog", "points": points, "shape_type": "mask", "mask": picture(drawn)}
    export.write("train/a.json", {"shapes": [shape]})
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[8:13, 20:29] = 2 * drawn
    assert np.array_equal(FolderSource(str(export.root)).read_mask("train/a"), expected)


@pytest.mark.parametrize("kind", ["rotation", "oriented_rectangle", "polygon"])
def test_a_turned_rectangle_of_labelmes_relatives_is_its_corners(export, kind):
    labelme(export)
    points = [[10, 10], [20, 10], [20, 30], [10, 30]]
    export.write("train/a.json", {"shapes": [{"label": "dog", "points": points, "shape_type": kind}]})
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[10:30, 10:20] = 2
    assert np.array_equal(FolderSource(str(export.root)).read_mask("train/a"), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": None}, "got a shape that cannot be read"),
        ({"mask": "no picture"}, "got a shape that cannot be read"),
        ({"points": [[float("nan"), 0], [3, 3]]}, "a corner that is not within"),
        ({"points": [[0, 0]]}, "got the shape cat of type mask with 1 points"),
        ({"shape_type": "point"}, "got the shape cat of type point with 2 points, expected a polygon"),
    ],
)
def test_a_broken_mask_of_labelme_is_an_error_of_one_line(export, changes, message):
    labelme(export)
    drawn = picture(np.ones((4, 4), np.bool_))
    shape = {"label": "cat", "points": [[0, 0], [3, 3]], "shape_type": "mask", "mask": drawn} | changes
    export.write("train/a.json", {"shapes": [shape]})
    with pytest.raises(DatasetError, match=message) as caught:
        FolderSource(str(export.root))
    assert "\n" not in str(caught.value)
