"""Published data sets in their official layouts, checked as plain folders are."""

import json

import numpy as np
import pytest
from PIL import Image

from zoo.data.inspect.inspection import inspect
from zoo.data.inspect.page import html
from zoo.errors import DatasetError

RANDOM = np.random.default_rng(0)
EXPECTED = {"absent-class", "tiny-image"}
"""What images of 8x6 pixels with few classes are rightly told."""


def kinds(spec):
    return {finding.kind for finding in inspect(spec).findings} - EXPECTED


@pytest.fixture
def varied():
    """Return a function that gives each image of a data set a content of its own."""

    def vary(disk):
        for path in sorted(disk.root.rglob("*.jpg")) + sorted(disk.root.rglob("*_leftImg8bit.png")):
            Image.fromarray(RANDOM.integers(0, 256, (6, 8, 3), np.uint8)).save(path)
        return disk.root

    return vary


def test_sound_data_sets_have_no_faults_and_their_own_classes(
    voc, cityscapes, pascal_context, ade20k, coco, varied
):
    for disk, prefixes in (
        (voc, ("voc", "voc-classic")),
        (cityscapes, ("cityscapes", "cityscapes-extra")),
        (pascal_context, ("pascal-context", "pascal-context-59")),
        (ade20k, ("ade20k",)),
        (coco, ("coco",)),
    ):
        root = varied(disk)
        for prefix in prefixes:
            inspection = inspect(f"{prefix}:{root}")
            assert kinds(f"{prefix}:{root}") == set()
            assert not inspection.has_faults
            assert inspection.meaning.proposal is None


def test_images_masks_and_classes_are_counted_by_what_the_reader_makes_of_them(voc, cityscapes, varied):
    blended, classic = (inspect(f"{prefix}:{varied(voc)}").counts() for prefix in ("voc", "voc-classic"))
    assert [blended[split]["masks"] for split in ("train", "unlabeled", "val")] == [4, 0, 1]
    assert [classic[split]["images"] for split in ("train", "unlabeled", "val")] == [2, 2, 1]
    rows = {row["name"]: row for row in inspect(f"cityscapes:{varied(cityscapes)}").classes()}
    assert rows["road"]["train_images"] == 3
    assert rows["train"]["train_images"] == 0
    assert rows["ignored"]["train_share"] > 0.3  # of 7, 6, 26, 0, 33 two are no classes


def test_broken_files_wrong_values_and_leaks_are_found_and_named(voc, varied):
    root = varied(voc)
    cut = root / "JPEGImages/2007_000032.jpg"
    cut.write_bytes(cut.read_bytes()[:200])
    voc.mask("SegmentationClassAug/2008_000008.png", [0, 21])
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(root / "SegmentationClass/2007_000039.png")
    leaked = root / "JPEGImages/2008_000015.jpg"
    leaked.write_bytes((root / "JPEGImages/2007_000033.jpg").read_bytes())
    found = {(one.kind, one.files) for one in inspect(f"voc:{root}").findings if one.kind not in EXPECTED}
    assert found == {
        ("unreadable-image", ("JPEGImages/2007_000032.jpg",)),
        ("unknown-value", ("SegmentationClassAug/2008_000008.png",)),
        ("size-mismatch", ("SegmentationClass/2007_000039.png",)),
        ("all-background", ("SegmentationClass/2007_000039.png",)),
        ("leakage", ("JPEGImages/2008_000015.jpg", "JPEGImages/2007_000033.jpg")),
    }


def test_a_value_beyond_the_official_ids_is_found(cityscapes, varied):
    root = varied(cityscapes)
    cityscapes.mask("gtFine/val/munster/munster_000000_000019_gtFine_labelIds.png", [7, 40])
    assert kinds(f"cityscapes:{root}") == {"unknown-value"}


def test_a_missing_file_is_said_in_one_line(voc):
    (voc.root / "SegmentationClass/2007_000039.png").unlink()
    with pytest.raises(DatasetError, match=r"got no 2007_000039.png \(1 of 2 files are missing\)"):
        inspect(f"voc:{voc.root}")


def test_the_page_shows_masks_in_the_colors_of_the_classes(pascal_context, varied):
    page = html(inspect(f"pascal-context:{varied(pascal_context)}"))
    assert "aeroplane" in page
    assert page.count("data:image/jpeg;base64,") >= 3


def test_the_spec_may_name_the_folder_above(voc, varied):
    root = varied(voc)
    inspection = inspect(f"voc:{root.parent}")
    assert inspection.name(root / "JPEGImages/2007_000032.jpg") == "VOC2012/JPEGImages/2007_000032.jpg"
    assert json.dumps(inspection.as_json())
