import json

import numpy as np
import pytest
from PIL import Image

from zoo.data.inspect.inspection import inspect
from zoo.data.inspect.page import html

RANDOM = np.random.default_rng(0)


def square(number, image, side, category=1):
    points = [4, 4, 4 + side, 4, 4 + side, 4 + side, 4, 4 + side]
    return {"id": number, "image_id": image, "category_id": category, "segmentation": [points]}


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "images").mkdir(parents=True)
        for name in "ab":
            pixels = RANDOM.integers(0, 256, (6, 8, 3), np.uint8)
            image = Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC)
            image.save(tmp_path / split / "images" / f"{name}.png")
        content = {
            "images": [
                {"id": number, "file_name": f"{name}.png", "width": 64, "height": 48}
                for number, name in enumerate("ab")
            ],
            "annotations": [square(number, number, 10 + number) for number in range(2)],
            "categories": [{"id": 1, "name": "crack"}],
        }
        (tmp_path / split / "annotations.json").write_text(json.dumps(content))
    return tmp_path


def change(folder, **changes):
    path = folder / "train" / "annotations.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def found(folder):
    return [(finding.kind, finding.files) for finding in inspect(str(folder)).findings]


def test_good_annotations_have_no_findings_and_need_no_description(folder):
    inspection = inspect(str(folder))
    assert inspection.findings == []
    assert inspection.meaning.proposal is None
    crack = inspection.classes()[1]
    assert (crack["name"], crack["train_pixels"], crack["train_images"]) == ("crack", 100 + 121, 2)
    assert html(inspection).count("<img") == 4


def test_images_and_entries_without_each_other_are_found(folder):
    (folder / "train" / "images" / "b.png").rename(folder / "train" / "images" / "c.png")
    assert found(folder) == [
        ("missing-mask", ("train/images/c.png",)),
        ("orphan-mask", ("train/annotations.json",)),
    ]


def test_annotations_that_cannot_be_used_or_drawn_are_found(folder):
    change(folder, annotations=[square(0, 0, 10, category=8), square(1, 1, 5)])
    assert found(folder)[0] == ("annotations", ("train/annotations.json",))
    bad = square(0, 0, 10) | {"segmentation": {"size": [48, 64], "counts": [3, 9000]}}
    change(folder, annotations=[bad, square(1, 1, 5)])
    assert found(folder) == [("unreadable-mask", ("train/annotations.json: image a.png",))]


def test_an_entry_of_another_size_is_found(folder):
    images = [{"id": number, "file_name": f"{name}.png", "width": 60, "height": 48}
              for number, name in enumerate("ab")]  # fmt: skip
    change(folder, images=images)
    assert [kind for kind, _ in found(folder)] == ["size-mismatch"] * 2


def test_what_training_refuses_of_annotations_as_a_whole_is_found(folder):
    change(folder, categories=[{"id": 1, "name": "rift"}])
    kinds = [kind for kind, _ in found(folder)]
    assert kinds == ["data-file"]
