"""Folders as annotation tools and other libraries write them are recognized and read."""

import base64
import io
import json
import logging
import zlib

import numpy as np
import pytest
from PIL import Image

from zoo.data.check import check_source
from zoo.data.folder import FolderSource
from zoo.data.inspect.inspection import inspect
from zoo.errors import DatasetError

HEIGHT, WIDTH = 48, 64
RANDOM = np.random.default_rng(0)
LABELS = np.zeros((HEIGHT, WIDTH), np.uint8)
LABELS[16:32], LABELS[32:] = 1, 2
TRIANGLE = [[2, 2], [42, 2], [42, 42]]


class Export:
    """A folder under construction."""

    def __init__(self, root):
        self.root = root

    def path(self, name):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def image(self, *names):
        for name in names:
            cells = Image.fromarray(RANDOM.integers(0, 256, (6, 8, 3), np.uint8))
            cells.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(self.path(name))

    def mask(self, *names, pixels=LABELS):
        for name in names:
            Image.fromarray(pixels).save(self.path(name))

    def write(self, name, content):
        self.path(name).write_text(content if isinstance(content, str) else json.dumps(content))


def voc(export):
    for name in "abc":
        export.image(f"JPEGImages/{name}.jpg")
        export.mask(f"SegmentationClass/{name}.png")
    export.image("JPEGImages/d.jpg")
    export.write("ImageSets/Segmentation/train.txt", "a\nb\n")
    export.write("ImageSets/Segmentation/val.txt", "c\n")


def cvat_masks(export):
    colors = np.array([[0, 0, 0], [250, 50, 83], [51, 221, 255]], np.uint8)
    for name in "abc":
        export.image(f"JPEGImages/{name}.jpg")
        export.mask(f"SegmentationClass/{name}.png", pixels=colors[LABELS])
    export.image("JPEGImages/d.jpg")
    export.write("ImageSets/Segmentation/train.txt", "a\nb\n")
    export.write("ImageSets/Segmentation/val.txt", "c\n")
    export.write("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\n"
                 "cat:250,50,83::\ndog:51,221,255::\n")  # fmt: skip


def roboflow_masks(export):
    for split, names in (("train", "abd"), ("valid", "c"), ("test", "e")):
        export.image(*(f"{split}/{name}_jpg.rf.0{name}.jpg" for name in names))
        export.mask(*(f"{split}/{name}_jpg.rf.0{name}_mask.png" for name in names if name != "d"))
        export.write(f"{split}/_classes.csv", "Pixel Value, Class\n0, background\n1, cat\n2, dog\n")


def coco(names, prefix=""):
    categories = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "pets"},
        {"id": 2, "name": "dog", "supercategory": "pets"},
    ]
    points = {1: np.ravel(TRIANGLE).tolist(), 2: [50, 2, 60, 2, 60, 42]}
    images, annotations = [], []
    for at, name in enumerate(names):
        images.append({"id": at, "file_name": f"{prefix}{name}.jpg", "height": HEIGHT, "width": WIDTH})
        for label, polygon in points.items():
            annotation = {"image_id": at, "category_id": label, "iscrowd": 0, "segmentation": [polygon]}
            annotations.append({"id": len(annotations)} | annotation)
    return {"images": images, "annotations": annotations, "categories": categories}


def roboflow_coco(export):
    for split, names in (("train", "ab"), ("valid", "c")):
        export.image(*(f"{split}/{name}.jpg" for name in names))
        export.write(f"{split}/_annotations.coco.json", coco(names))
    export.image("train/d.jpg")


def cvat_coco(export):
    export.image(*(f"images/{name}.jpg" for name in "abcd"))
    export.write("annotations/instances_train.json", coco("ab", "images/"))
    export.write("annotations/instances_val.json", coco("c", "images/"))


def with_val(export):
    export.write("data.toml", 'val_list = "val.txt"\n')
    export.write("val.txt", "train/c\n")


def label_studio_coco(export):
    export.image(*(f"images/{name}.jpg" for name in "abcd"))
    export.write("result.json", coco("abc", "../../label-studio/data/upload/1/"))
    with_val(export)


def flat(export):
    export.image(*(f"images/{name}.jpg" for name in "abcd"))
    export.mask(*(f"masks/{name}.png" for name in "abc"))
    with_val(export)


def yolo(export, images="images/{}", labels="labels/{}"):
    for split, names in (("train", "abd"), ("val", "c")):
        for name in names:
            export.image(f"{images.format(split)}/{name}.jpg")
            if name != "d":
                text = "0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.6 0.1 0.9 0.1 0.9 0.9\n"
                export.write(f"{labels.format(split)}/{name}.txt", text)
    export.write("data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\n")


def roboflow_yolo(export):
    yolo(export, "{}/images", "{}/labels")


def labelme(export):
    shapes = [
        {"label": "cat", "points": TRIANGLE, "shape_type": "polygon"},
        {"label": "dog", "points": [[60, 40], [50, 4]], "shape_type": "rectangle"},
    ]
    for split, names in (("train", "ab"), ("val", "c")):
        export.image(*(f"{split}/{name}.jpg" for name in names))
        for name in names:
            export.write(
                f"{split}/{name}.json", {"shapes": shapes, "imagePath": f"{name}.jpg", "imageData": None}
            )
    export.image("train/d.jpg")


def supervisely(export):
    file = io.BytesIO()
    Image.fromarray(np.full((10, 8), 255, np.uint8)).convert("1").save(file, "PNG")
    packed = base64.b64encode(zlib.compress(file.getvalue())).decode()
    outer = [[2, 2], [40, 2], [40, 40], [2, 40]]
    hole = [[10, 10], [20, 10], [20, 20], [10, 20]]
    polygon = {"exterior": outer, "interior": [hole]}
    objects = [
        {"classTitle": "cat", "geometryType": "polygon", "points": polygon},
        {"classTitle": "dog", "geometryType": "bitmap", "bitmap": {"data": packed, "origin": [50, 30]}},
    ]
    for split, names in (("train", "ab"), ("val", "c")):
        export.image(*(f"{split}/img/{name}.jpg" for name in names))
        for name in names:
            export.write(
                f"{split}/ann/{name}.jpg.json",
                {"objects": objects, "size": {"height": HEIGHT, "width": WIDTH}},
            )
    export.image("train/img/d.jpg")
    export.write(
        "meta.json", {"classes": [{"title": "cat", "shape": "any"}, {"title": "dog", "shape": "any"}]}
    )


def mmseg(export):
    for split, names in (("train", "ab"), ("val", "c")):
        export.image(*(f"img_dir/{split}/{name}.jpg" for name in names))
        export.mask(*(f"ann_dir/{split}/{name}.png" for name in names))
    export.image("img_dir/train/d.jpg")


def cityscapes(export):
    for split, names in (("train", "ab"), ("val", "c")):
        export.image(*(f"leftImg8bit/{split}/ulm/{name}_leftImg8bit.png" for name in names))
        export.mask(*(f"gtFine/{split}/ulm/{name}_gtFine_labelTrainIds.png" for name in names))
    export.image("leftImg8bit/train/ulm/d_leftImg8bit.png")


EXPORTS = (
    voc,
    cvat_masks,
    roboflow_masks,
    roboflow_coco,
    cvat_coco,
    label_studio_coco,
    flat,
    yolo,
    roboflow_yolo,
    labelme,
    supervisely,
    mmseg,
    cityscapes,
)


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
