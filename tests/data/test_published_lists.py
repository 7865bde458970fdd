"""The lists of labeled images that go with papers, on the published data sets; the warning of unfair ones."""

import logging
from pathlib import Path

import pytest

from zoo.data.lists import IdFinder
from zoo.data.open import open_source
from zoo.data.partition import Partition, _warn_if_not_random, make_partition
from zoo.errors import DatasetError


def listing(folder: Path, *lines: str) -> str:
    path = folder / "labeled.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param("2008_000008", id="U2PL and PseudoSeg"),
        pytest.param("JPEGImages/2008_000008.jpg SegmentationClass/2008_000008.png", id="UniMatch"),
        pytest.param("/JPEGImages/2008_000008.jpg\t/SegmentationClassAug/2008_000008.png", id="CPS"),
        pytest.param(
            "VOC2012/JPEGImages/2008_000008.jpg VOC2012/SegmentationClassAug/2008_000008.png", id="root"
        ),
    ],
)
def test_the_lists_of_voc_are_read(voc, tmp_path, entry):
    partition = make_partition(open_source(f"voc:{voc.root}"), listing(tmp_path, entry), 0)
    assert partition.labeled == ("train/2008_000008",)


@pytest.mark.parametrize(
    "entry",
    [
        "leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png",
        "leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png gtFine/train/ulm/x_gtFine_labelTrainIds.png",
        "/leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png\t/gtFine/train/ulm/x_gtFine_labelIds.png",
        "train/ulm/ulm_000001_000019_leftImg8bit.png",
        "ulm_000001_000019_leftImg8bit",
        "ulm_000001_000019",
    ],
)
def test_the_lists_of_cityscapes_are_read(cityscapes, tmp_path, entry):
    for prefix in ("cityscapes", "cityscapes-extra"):
        partition = make_partition(open_source(f"{prefix}:{cityscapes.root}"), listing(tmp_path, entry), 0)
        assert partition.labeled == ("train/ulm/ulm_000001_000019",)


@pytest.mark.parametrize(
    "entry", ["2008_000003", "JPEGImages/2008_000003.jpg SegmentationClassContext/2008_000003.png"]
)
def test_the_lists_of_pascal_context_are_read(pascal_context, tmp_path, entry):
    source = open_source(f"pascal-context:{pascal_context.root}")
    assert make_partition(source, listing(tmp_path, entry), 0).labeled == ("train/2008_000003",)


def test_the_lists_of_ade20k_and_coco_are_read(ade20k, coco, tmp_path):
    for prefix, disk, entry, expected in (
        (
            "ade20k", ade20k,
            "images/training/ADE_train_00000002.jpg annotations/training/ADE_train_00000002.png",
            "train/ADE_train_00000002",
        ),
        ("coco", coco, "train2017/000000000025.jpg masks/000000000025.png", "train/000000000025"),
    ):  # fmt: skip
        source = open_source(f"{prefix}:{disk.root}")
        assert make_partition(source, listing(tmp_path, entry), 0).labeled == (expected,)


def test_an_image_of_val_is_not_taken_from_a_list(voc, tmp_path):
    entry = "JPEGImages/2007_000033.jpg SegmentationClass/2007_000033.png"
    with pytest.raises(DatasetError, match="expected an image of split train"):
        make_partition(open_source(f"voc:{voc.root}"), listing(tmp_path, entry), 0)


def test_one_list_makes_the_same_partition_of_blended_and_classic_voc(voc, tmp_path):
    spec = listing(tmp_path, "2007_000032")
    blended, classic = (
        make_partition(open_source(f"{name}:{voc.root}"), spec, 0) for name in ("voc", "voc-classic")
    )
    assert blended.digest == classic.digest
    assert (len(blended.unlabeled), blended.high_quality, classic.high_quality) == (3, 1, 1)


def test_the_record_of_a_partition_keeps_the_number_of_high_quality_masks(voc, tmp_path):
    partition = make_partition(
        open_source(f"voc:{voc.root}"), listing(tmp_path, "2007_000032", "2008_000015"), 0
    )
    assert partition.high_quality == 1
    partition.write(tmp_path / "partition")
    assert Partition.read(tmp_path / "partition") == partition
    assert '"high_quality_masks": 1' in (tmp_path / "partition" / "partition.json").read_text()


def test_a_data_set_with_one_kind_of_masks_counts_none(cityscapes, tmp_path):
    partition = make_partition(open_source(f"cityscapes:{cityscapes.root}"), "1", 0)
    assert partition.high_quality is None
    partition.write(tmp_path / "partition")
    assert "high_quality" not in (tmp_path / "partition" / "partition.json").read_text()


# counted in the lists of the papers: labeled images, and those of them with VOC's own masks
U2PL = [(662, 662), (1323, 1323), (2646, 1464), (5291, 1464)]
RANDOM = [
    (530, 82), (530, 69), (530, 73), (1322, 194), (1322, 189), (1322, 178), (2645, 361), (2645, 379),
    (2645, 349), (662, 93), (1323, 193), (2646, 388), (5291, 742), (529, 86), (1322, 207), (2645, 392),
]  # fmt: skip


@pytest.mark.parametrize(("labeled", "precise"), U2PL + RANDOM)
def test_only_a_list_that_takes_the_better_masks_first_is_warned_of(labeled, precise, caplog):
    with caplog.at_level(logging.WARNING):
        _warn_if_not_random("list.txt", precise, labeled, 1464, 10582)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * ((labeled, precise) in U2PL)


def test_the_warning_says_in_one_line_what_must_not_be_ranked(voc, tmp_path, caplog):
    names = [f"2009_{number:06d}" for number in range(40)]
    for name in names:
        voc.image(f"JPEGImages/{name}.jpg")
        voc.mask(f"SegmentationClassAug/{name}.png", [0, 1])
    own = [f"2010_{number:06d}" for number in range(8)]
    for name in own:
        voc.image(f"JPEGImages/{name}.jpg")
        voc.mask(f"SegmentationClass/{name}.png", [0, 1])
    voc.names("ImageSets/Segmentation/train.txt", own)
    voc.names("ImageSets/Segmentation/trainaug.txt", (*own, *names))
    make_partition(open_source(f"voc:{voc.root}"), listing(tmp_path, *own), 0)
    assert len(caplog.messages) == 1
    assert (
        "labeled.txt is not a random list: 8 of its 8 labeled images have high-quality masks" in caplog.text
    )
    assert "are not comparable with those of random lists" in caplog.text
    caplog.clear()
    make_partition(open_source(f"voc:{voc.root}"), "1/4", 0)
    make_partition(open_source(f"voc:{voc.root}"), None, 0)
    make_partition(open_source(f"voc-classic:{voc.root}"), listing(tmp_path, *own), 0)
    assert caplog.messages == []


def test_entries_are_found_in_either_form_of_unicode():
    find = IdFinder(("train/caf\u00e9/1", "train/e\u0301"), ("val/x",), "image")
    assert find("cafe\u0301/1.jpg", "list:1") == "train/caf\u00e9/1"
    assert find("\u00e9", "list:1") == "train/e\u0301"


def test_an_entry_with_a_folder_is_no_image_of_the_same_name_in_another_one():
    find = IdFinder(("train/cam2/0005", "train/0006"), (), "image")
    assert find("0005", "list:1") == find("x/cam2/0005.png", "list:1") == "train/cam2/0005"
    assert find("JPEGImages/0006.jpg", "list:1") == "train/0006"
    with pytest.raises(DatasetError, match=r"list:1: got 'train/cam1/0005', expected an image such as"):
        find("train/cam1/0005", "list:1")
