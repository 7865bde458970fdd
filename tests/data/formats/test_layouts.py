"""Folders as annotation tools and other libraries write them are recognized and read."""

import logging

import numpy as np
import pytest

from tests.data.formats.exports import (
    EXPORTS,
    HEIGHT,
    WIDTH,
    Export,
    coco,
    cvat_coco,
    cvat_masks,
    labelme,
    roboflow_masks,
    supervisely,
    voc,
    yolo,
)
from zoo.data.check import check_source
from zoo.data.folder import FolderSource
from zoo.data.inspect.inspection import inspect
from zoo.errors import DatasetError


@pytest.fixture
def export(tmp_path):
    return Export(tmp_path / "d")


@pytest.mark.parametrize("make", EXPORTS, ids=lambda make: make.__name__)
def test_an_export_is_recognized_read_and_ready_for_training(export, make, caplog):
    make(export)
    source = FolderSource(str(export.root))
    counts = [len(source.ids(split)) for split in ("train", "val", "unlabeled")]
    assert counts == [2, 1, 1]
    assert len(source.classes) == 3
    for id_ in (*source.ids("train"), *source.ids("val")):
        assert np.unique(source.read_mask(id_)).tolist() == [0, 1, 2]
    with caplog.at_level(logging.INFO):
        check_source(source)
    assert f"found 2 train, 1 val, 1 unlabeled images, recognized as {source.tool}" in caplog.messages[0]
    inspection = inspect(str(export.root))
    assert not inspection.has_faults
    assert inspection.tool == source.tool
    assert inspection.counts()["train"]["masks"] == 2


def test_an_export_without_val_says_how_to_choose_one_and_takes_the_list(export):
    export.image(*(f"images/{name}.jpg" for name in "abc"))
    export.mask(*(f"masks/{name}.png" for name in "abc"))
    with pytest.raises(DatasetError, match=r"no images in split val.*zoo data split .* --val 1/5"):
        check_source(FolderSource(str(export.root)))
    assert "zoo data split" in next(one.detail for one in inspect(str(export.root)).findings)
    export.write("data.toml", 'val_list = "val.txt"\n')
    export.write("val.txt", "train/b\n")
    source = FolderSource(str(export.root))
    assert (source.ids("train"), source.ids("val")) == (("train/a", "train/c"), ("val/b",))
    check_source(source)
    assert not inspect(str(export.root)).has_faults


def coco_with_test(export):
    cvat_coco(export)
    export.image("images/e.jpg")
    export.write("annotations/instances_Test.json", {"images": [{"file_name": "e.jpg"}]})


def coco_with_test_folder(export):
    cvat_coco(export)
    export.image("images/test2017/e.jpg")
    export.image("images/contest/f.jpg")


def voc_with_test(export):
    voc(export)
    export.image("JPEGImages/e.jpg")
    export.mask("SegmentationClass/e.png")
    export.write("ImageSets/Segmentation/test.txt", "e\n")


def voc_without_train(export):
    voc_with_test(export)
    (export.root / "ImageSets/Segmentation/train.txt").rename(
        export.root / "ImageSets/Segmentation/default.txt"
    )


@pytest.mark.parametrize("make", [coco_with_test, voc_with_test, voc_without_train])
def test_images_of_a_test_are_left_out_and_counted(export, make):
    make(export)
    source = FolderSource(str(export.root))
    assert [source.ids(split) for split in ("train", "val", "unlabeled")] == [
        ("train/a", "train/b"),
        ("val/c",),
        ("unlabeled/d",),
    ]
    name = "instances_Test.json" if make is coco_with_test else "test.txt"
    assert source.skipped == {export.root: f"1 images of {name}"}


def test_images_of_a_test_folder_without_annotations_are_left_out(export):
    coco_with_test_folder(export)
    source = FolderSource(str(export.root))
    assert source.ids("unlabeled") == ("unlabeled/contest/f", "unlabeled/d")
    assert source.skipped == {export.root: "1 images of test2017/"}


def test_a_test_list_takes_an_image_from_training(export):
    coco_with_test(export)
    export.write("annotations/instances_Test.json", coco("b", "images/"))
    assert FolderSource(str(export.root)).ids("train") == ("train/a",)


def test_latest_is_no_test(export):
    cvat_coco(export)
    (export.root / "annotations/instances_train.json").rename(
        export.root / "annotations/instances_latest.json"
    )
    assert FolderSource(str(export.root)).ids("train") == ("train/a", "train/b")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (voc, "ImageSets/Segmentation/train.txt"),
        (cvat_masks, "labelmap.txt"),
        (roboflow_masks, "train/_classes.csv"),
        (cvat_coco, "annotations/instances_train.json"),
        (coco_with_test, "annotations/instances_Test.json"),
        (yolo, "labels/train/a.txt"),
        (yolo, "data.yaml"),
        (labelme, "train/a.json"),
        (supervisely, "meta.json"),
    ],
)
def test_text_in_another_encoding_is_named_in_one_line(export, make, name):
    make(export)
    (export.root / name).write_bytes((export.root / name).read_bytes() + "\n# é".encode("latin-1"))
    with pytest.raises(DatasetError, match=rf"{name.rpartition('/')[2]}: got .*(?i:utf-8)") as caught:
        FolderSource(str(export.root))
    assert "\n" not in str(caught.value)


def test_a_file_of_another_tool_beside_an_image_may_have_any_encoding(export):
    export.image("images/a.jpg")
    export.mask("masks/a.png")
    (export.root / "images/a.json").write_bytes('{"author": "é"}'.encode("latin-1"))
    (export.root / "data.toml").write_text("")
    assert FolderSource(str(export.root)).ids("train") == ("train/a",)


def test_images_that_a_layout_leaves_out_are_counted(export):
    roboflow_masks(export)
    export.write("train/film.gif", "")
    source = FolderSource(str(export.root))
    assert source.skipped == {export.root: "1 file of another kind (.gif), 2 images of test/"}


def test_holes_of_supervisely_are_background_and_bitmaps_lie_where_they_say(export):
    supervisely(export)
    mask = FolderSource(str(export.root)).read_mask("train/a")
    assert (mask[15, 15], mask[15, 30], mask[35, 52], mask[25, 52]) == (0, 1, 2, 0)


def test_a_bitmap_of_supervisely_that_begins_outside_the_image_is_cut(export):
    supervisely(export)
    path = export.root / "train/ann/a.jpg.json"
    path.write_text(path.read_text().replace('"origin": [50, 30]', '"origin": [-3, -4]'))
    mask = FolderSource(str(export.root)).read_mask("train/a")
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[:6, :5] = True
    assert ((mask == 2) == expected).all()


@pytest.mark.parametrize(
    ("make", "name", "old", "new"),
    [
        (labelme, "train/a.json", "{", '{"imageWidth": 128, "imageHeight": 96, '),
        (supervisely, "train/ann/a.jpg.json", f'"height": {HEIGHT}', '"height": 96'),
    ],
)
def test_annotations_of_another_size_than_their_image_are_a_fault(export, make, name, old, new):
    make(export)
    path = export.root / name
    path.write_text(path.read_text().replace(old, new, 1))
    assert [one.kind for one in inspect(str(export.root)).findings if one.kind == "size-mismatch"]


def test_names_of_yolo_go_by_their_numbers(export):
    yolo(export)
    export.write("data.yaml", "names: {1: dog, 0: cat}\n")
    source = FolderSource(str(export.root))
    assert source.classes.names == ("background", "cat", "dog")


def test_lists_of_voc_may_hold_spaces_suffixes_and_paths(export, caplog):
    voc(export)
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        path = export.root / folder / f"a.{suffix}"
        path.rename(path.with_stem("a 1"))
    export.write("ImageSets/Segmentation/train.txt", "a 1\nJPEGImages/b.jpg\nnone\n")
    export.write("ImageSets/Segmentation/val.txt", "c 1\n")
    source = FolderSource(str(export.root))
    assert (source.ids("train"), source.ids("val")) == (("train/a 1", "train/b"), ("val/c",))
    assert "train.txt: 1 of 3 lines name no image, such as none" in caplog.text


@pytest.mark.parametrize(
    ("make", "name", "content", "message"),
    [
        (yolo, "labels/train/a.txt", "0 0.5 0.5 0.2 0.2\n", r"a\.txt:1: got 4 numbers .* not a box"),
        (yolo, "labels/train/a.txt", "7 0.1 0.1 0.5 0.1 0.5 0.5\n", r"expected a class 0\.\.1"),
        (labelme, "train/a.json", '{"shapes": [', r"a\.json: got a file that cannot be read"),
        (
            labelme,
            "train/a.json",
            {"shapes": [{"label": "x", "points": [[1, 1]], "shape_type": "point"}]},
            "type point",
        ),
        (
            supervisely,
            "train/ann/a.jpg.json",
            {"objects": [{"classTitle": "x", "geometryType": "line"}]},
            "type line",
        ),
        (
            supervisely,
            "meta.json",
            {"classes": [{"title": "cat"}, {"title": "bird"}]},
            r"got a region of the class dog, expected one of cat, bird",
        ),
        (yolo, "data.yaml", "names: {1: cat, 2: dog}\n", r"data\.yaml: got names: .* all numbers from 0"),
        (yolo, "data.yaml", "names: [cat, cat]\n", "list of different names"),
        (cvat_masks, "labelmap.txt", "background:a,b,c::\n", r"labelmap\.txt: got a line"),
    ],
)
def test_annotations_that_cannot_be_read_are_named_in_one_line(export, make, name, content, message):
    make(export)
    export.write(name, content)
    with pytest.raises(DatasetError, match=message) as caught:
        FolderSource(str(export.root))
    assert "\n" not in str(caught.value)
    assert inspect(str(export.root)).has_faults
