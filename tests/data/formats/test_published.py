"""The readers of published data sets, on the official layouts."""

import shutil

import numpy as np
import pytest

from zoo.data.check import check_source
from zoo.data.formats.cityscapes import CLASSES as CITYSCAPES
from zoo.data.open import PREFIXES, open_source
from zoo.errors import DatasetError


def head(source, id_):
    """Return the first values of a mask."""
    return source.read_mask(id_)[0].tolist()


def test_blended_voc_trains_on_both_kinds_of_masks_each_where_it_is_the_better_one(voc):
    source = open_source(f"voc:{voc.root}")
    assert source.ids("train") == (
        "train/2007_000032", "train/2007_000039", "train/2008_000008", "train/2008_000015",
    )  # fmt: skip
    assert source.ids("unlabeled") == ()
    assert source.ids("val") == ("val/2007_000033",)
    assert head(source, "train/2007_000032") == [0, 15, 255, 0, 15, 255, 0, 15]
    assert head(source, "train/2008_000008") == [0, 20, 0, 20, 0, 20, 0, 20]
    assert source.precise_ids() == {"train/2007_000032", "train/2007_000039"}
    check_source(source)


def test_classic_voc_has_its_own_masks_and_takes_the_other_images_as_unlabeled(voc):
    source = open_source(f"voc-classic:{voc.root}")
    assert source.ids("train") == ("train/2007_000032", "train/2007_000039")
    assert source.ids("unlabeled") == ("train/2008_000008", "train/2008_000015")
    assert source.read_image("train/2008_000008").shape == (6, 8, 3)
    check_source(source)


def test_without_a_list_the_training_images_of_voc_are_all_that_have_masks_but_val(voc):
    whole = open_source(f"voc:{voc.root}")
    voc.path("ImageSets/Segmentation/trainaug.txt").unlink()
    assert open_source(f"voc:{voc.root}").ids("train") == whole.ids("train")


def test_voc_is_found_where_its_archive_unpacks(voc, tmp_path):
    shutil.move(voc.root, tmp_path / "data" / "VOCdevkit" / "VOC2012")
    assert len(open_source(f"voc:{tmp_path}/data").ids("train")) == 4


def test_the_names_and_colors_of_voc_are_the_official_ones(voc):
    classes = open_source(f"voc:{voc.root}").classes
    assert len(classes) == 21
    assert (classes.names[0], classes.names[15], classes.names[20]) == ("background", "person", "tvmonitor")
    assert classes.palette[15] == (192, 128, 128)


def test_voc_without_sbd_says_what_makes_it_and_what_does_without(voc):
    shutil.rmtree(voc.root / "SegmentationClassAug")
    voc.path("ImageSets/Segmentation/trainaug.txt").unlink()
    with pytest.raises(
        DatasetError, match=r"got no SegmentationClassAug .* zoo data prepare voc .* voc-classic:"
    ):
        open_source(f"voc:{voc.root}")
    assert open_source(f"voc-classic:{voc.root}").ids("unlabeled") == ()


def test_an_image_of_val_in_the_training_list_is_an_error(voc):
    voc.names("ImageSets/Segmentation/trainaug.txt", ["2008_000008", "2007_000033"])
    with pytest.raises(DatasetError, match=r"trainaug.txt: got 2007_000033 and 0 more images of val.txt"):
        open_source(f"voc:{voc.root}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("JPEGImages", r"got no JPEGImages in .*, expected JPEGImages, SegmentationClass, ImageSets"),
        ("ImageSets/Segmentation/val.txt", r"val.txt: got no list that can be read"),
        (
            "JPEGImages/2008_000008.jpg",
            r"got no 2008_000008.jpg \(1 of 2 files are missing\), expected the image",
        ),
        (
            "SegmentationClassAug/2008_000015.png",
            r"got no 2008_000015.png .* expected the mask of every name",
        ),
    ],
)
def test_what_is_missing_of_voc_is_said_in_one_line(voc, name, message):
    path = voc.path(name)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DatasetError, match=message) as caught:
        open_source(f"voc:{voc.root}")
    assert "\n" not in str(caught.value)


def test_cityscapes_learns_19_of_the_34_official_ids(cityscapes):
    source = open_source(f"cityscapes:{cityscapes.root}")
    assert source.ids("train") == (
        "train/aachen/aachen_000000_000019",
        "train/bochum/bochum_000000_000313",
        "train/ulm/ulm_000001_000019",
    )
    assert source.ids("val") == ("val/munster/munster_000000_000019",)
    assert source.ids("unlabeled") == ()
    assert head(source, "val/munster/munster_000000_000019")[:5] == [0, 255, 13, 255, 18]
    check_source(source)


def test_the_table_of_the_official_ids_is_the_one_of_the_data_set(cityscapes):
    # id 0..33 in order, as labels.py of cityscapesScripts has them
    train_ids = [
        255, 255, 255, 255, 255, 255, 255, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9, 10, 11,
        12, 13, 14, 15, 255, 255, 16, 17, 18,
    ]  # fmt: skip
    for id_, train_id in enumerate(train_ids):
        cityscapes.mask("gtFine/val/munster/munster_000000_000019_gtFine_labelIds.png", [id_])
        source = open_source(f"cityscapes:{cityscapes.root}")
        assert set(head(source, "val/munster/munster_000000_000019")) == {train_id}
    assert CITYSCAPES.names[:4] == ("road", "sidewalk", "building", "wall")
    assert dict(zip(CITYSCAPES.names, CITYSCAPES.palette, strict=True))["car"] == (0, 0, 142)


def test_masks_that_were_turned_into_train_ids_are_read_where_the_official_ones_are_missing(cityscapes):
    for path in list(cityscapes.root.rglob("*_gtFine_labelIds.png")):
        name = path.relative_to(cityscapes.root).as_posix().replace("labelIds", "labelTrainIds")
        path.unlink()
        cityscapes.mask(name, [0, 255, 13])
    source = open_source(f"cityscapes:{cityscapes.root}")
    assert head(source, "train/aachen/aachen_000000_000019")[:3] == [0, 255, 13]


def test_the_extra_images_of_cityscapes_are_unlabeled_when_asked_for(cityscapes):
    source = open_source(f"cityscapes-extra:{cityscapes.root}")
    assert source.ids("unlabeled") == ("unlabeled/bayreuth/bayreuth_000000_000001",)
    assert source.read_image("unlabeled/bayreuth/bayreuth_000000_000001").shape == (6, 8, 3)
    shutil.rmtree(cityscapes.root / "leftImg8bit/train_extra")
    with pytest.raises(DatasetError, match=r"got no leftImg8bit/train_extra .* leftImg8bit_trainextra.zip"):
        open_source(f"cityscapes-extra:{cityscapes.root}")


def test_what_is_missing_of_cityscapes_is_said_in_one_line(cityscapes):
    cityscapes.path("gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(
        DatasetError, match=r"got no ulm/ulm_000001_000019_gtFine_labelIds.png \(1 of 3 masks"
    ):
        open_source(f"cityscapes:{cityscapes.root}")
    shutil.rmtree(cityscapes.root / "gtFine")
    with pytest.raises(DatasetError, match=r"got no gtFine/train, gtFine/val .* zoo data prepare cityscapes"):
        open_source(f"cityscapes:{cityscapes.root}")


def test_pascal_context_has_60_classes_or_59_without_the_background(pascal_context):
    whole, foreground = (
        open_source(f"{prefix}:{pascal_context.root}") for prefix in ("pascal-context", "pascal-context-59")
    )
    assert (len(whole.classes), len(foreground.classes)) == (60, 59)
    assert (whole.classes.names[1], whole.classes.names[59]) == ("aeroplane", "wood")
    assert (foreground.classes.names[0], foreground.classes.names[58]) == ("aeroplane", "wood")
    assert head(whole, "val/2008_000015")[:3] == [0, 1, 59]
    assert head(foreground, "val/2008_000015")[:3] == [255, 0, 58]
    assert whole.ids("train") == foreground.ids("train") == ("train/2008_000002", "train/2008_000003")
    check_source(whole)


def test_pascal_context_without_its_masks_says_what_makes_them(pascal_context):
    shutil.rmtree(pascal_context.root / "SegmentationClassContext")
    with pytest.raises(DatasetError, match=r"got no SegmentationClassContext .* prepare pascal-context"):
        open_source(f"pascal-context:{pascal_context.root.parent}")


def test_ade20k_has_150_classes_and_ignores_the_rest(ade20k):
    source = open_source(f"ade20k:{ade20k.root}")
    assert source.ids("train") == ("train/ADE_train_00000001", "train/ADE_train_00000002")
    assert source.ids("val") == ("val/ADE_val_00000001",)
    assert head(source, "val/ADE_val_00000001")[:3] == [255, 0, 149]
    names = source.classes.names
    assert (len(names), len(set(names))) == (150, 150)
    # as objectInfo150 numbers them, from 1
    numbers = {"wall": 1, "bed": 8, "sofa": 24, "pool table": 57, "television receiver": 90, "bicycle": 128}
    assert {name: names.index(name) + 1 for name in numbers} == numbers
    assert (names[141], names[149]) == ("crt screen", "flag")
    check_source(source)
    assert open_source(f"ade20k:{ade20k.root.parent}").ids("train") == source.ids("train")


def test_masks_of_ade20k_that_were_shifted_are_an_error(ade20k):
    ade20k.mask("annotations/training/ADE_train_00000002.png", [255, 0, 149])
    with pytest.raises(
        DatasetError, match=r"ADE_train_00000002.png: got the value 255, expected one of 0, 1"
    ):
        open_source(f"ade20k:{ade20k.root}").read_mask("train/ADE_train_00000002")


def test_coco_has_the_background_and_80_categories_in_the_order_of_their_ids(coco):
    source = open_source(f"coco:{coco.root}")
    assert source.ids("train") == ("train/000000000009", "train/000000000025")
    assert source.ids("val") == ("val/000000000139",)
    assert head(source, "val/000000000139")[:4] == [0, 1, 80, 255]
    names = source.classes.names
    assert (len(names), len(set(names))) == (81, 81)
    # the official ids leave out 12, 26, 29, 30, 45, 66, 68, 69, 71, 83
    labels = {
        "background": 0,
        "person": 1,
        "bench": 14,
        "tie": 28,
        "bowl": 46,
        "toilet": 62,
        "toothbrush": 80,
    }
    assert {name: names.index(name) for name in labels} == labels
    check_source(source)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (
            "ade20k:annotations/training/ADE_train_00000002.png",
            r"got no ADE_train_00000002.png \(1 of 2 files",
        ),
        ("ade20k:annotations/validation", r"got no annotations/validation in .* zoo data prepare ade20k"),
        ("coco:masks/000000000139.png", r"masks: got no 000000000139.png .* run zoo data prepare"),
        ("coco:masks", r"got no masks in .* zoo data prepare coco"),
        ("coco:train2017/*", r"train2017: got no images, expected NAME.jpg"),
    ],
)
def test_what_is_missing_of_ade20k_and_coco_is_said_in_one_line(missing, message, request):
    prefix, _, pattern = missing.partition(":")
    disk = request.getfixturevalue(prefix)
    for path in list(disk.root.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DatasetError, match=message) as caught:
        open_source(f"{prefix}:{disk.root}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_folder_without_the_data_set_is_an_error(prefix, tmp_path):
    with pytest.raises(DatasetError, match=rf"{prefix}:\S+ got no .* run zoo data prepare"):
        open_source(f"{prefix}:{tmp_path}")


def test_masks_are_arrays_of_8_bits(pascal_context):
    mask = open_source(f"pascal-context:{pascal_context.root}").read_mask("val/2008_000015")
    assert (mask.dtype, mask.shape) == (np.uint8, (6, 8))
