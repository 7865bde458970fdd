"""Folders as annotation tools and other libraries write them."""

import base64
import io
import json
import zlib

import numpy as np
from PIL import Image

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
