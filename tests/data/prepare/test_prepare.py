"""Published data sets made from tiny archives of the official forms, on disk or on a server."""

import hashlib
import json
import shutil
import stat
import sys
import zipfile

import pytest
from PIL import Image

from zoo.data.check import check_source
from zoo.data.open import open_source
from zoo.data.prepare.archives import DATA_SETS
from zoo.data.prepare.prepare import Origin, count, prepare, todo
from zoo.errors import DatasetError


def official(data_set, folder):
    """Return a data set whose official sums are those of the archives of a folder."""
    return data_set._replace(
        archives=tuple(
            archive._replace(
                md5=archive.md5 and hashlib.md5((folder / archive.name).read_bytes()).hexdigest()
            )
            for archive in data_set.archives
        )
    )


@pytest.fixture
def voc_set(voc_archives):
    return official(DATA_SETS["voc"], voc_archives)


def test_voc_and_sbd_become_what_their_readers_read(voc_set, voc_archives, tmp_path, quiet):
    folder, origin = tmp_path / "made", Origin(folder=voc_archives)
    made = prepare(todo(voc_set, folder, origin), folder, origin, quiet)
    assert [(each.name, each.is_official) for each in made] == [
        ("VOCtrainval_11-May-2012.tar", True),
        ("benchmark.tgz", True),
    ]
    assert count(voc_set, folder) == (4, 1)
    source = open_source(f"voc:{folder}")
    check_source(source)
    assert source.read_mask("train/2008_000008")[0, :2].tolist() == [0, 20]
    assert source.read_mask("train/2007_000032")[0, :3].tolist() == [0, 15, 255]
    root = folder / "VOCdevkit" / "VOC2012"
    names = (root / "ImageSets/Segmentation/trainaug.txt").read_text().split()
    assert names == ["2007_000032", "2007_000039", "2008_000008", "2008_000015"]
    # of SBD's four masks two are of images that VOC annotated itself
    assert sorted(path.name for path in (root / "SegmentationClassAug").iterdir()) == [
        "2008_000008.png",
        "2008_000015.png",
    ]
    assert Image.open(root / "SegmentationClassAug/2008_000008.png").mode == "P"
    assert not (root / "Annotations").exists()
    assert {path.name for path in folder.iterdir()} == {"VOCdevkit"}
    assert (voc_archives / "benchmark.tgz").exists()


def test_what_is_done_is_not_done_again(voc_set, voc_archives, tmp_path, quiet):
    folder, origin = tmp_path / "made", Origin(folder=voc_archives)
    prepare(todo(voc_set, folder, origin), folder, origin, quiet)
    assert todo(voc_set, folder, origin) == []
    (folder / "VOCdevkit/VOC2012/SegmentationClassAug/2008_000008.png").unlink()
    assert [archive.name for archive in todo(voc_set, folder, origin)] == ["benchmark.tgz"]
    prepare(todo(voc_set, folder, origin), folder, origin, quiet)
    assert todo(voc_set, folder, origin) == []


def test_voc_that_someone_unpacked_gets_the_masks_of_sbd_alone(voc, voc_set, voc_archives, quiet):
    for path in [*voc.root.glob("SegmentationClassAug/*"), voc.path("ImageSets/Segmentation/trainaug.txt")]:
        path.unlink()
    origin = Origin(folder=voc_archives)
    wanted = todo(voc_set, voc.root, origin)
    assert [archive.name for archive in wanted] == ["benchmark.tgz"]
    prepare(wanted, voc.root, origin, quiet)
    assert count(voc_set, voc.root) == (4, 1)


def test_the_folder_of_the_masks_can_be_read_by_others(voc_set, voc_archives, tmp_path, quiet):
    folder, origin = tmp_path / "made", Origin(folder=voc_archives)
    prepare(todo(voc_set, folder, origin), folder, origin, quiet)
    root = folder / "VOCdevkit/VOC2012"
    modes = {stat.S_IMODE((root / name).stat().st_mode) for name in ("JPEGImages", "SegmentationClassAug")}
    assert modes == {stat.S_IMODE(folder.stat().st_mode)}


def test_archives_come_from_a_server_and_are_removed_when_they_are_laid_out(
    site, voc_set, voc_archives, tmp_path, quiet
):
    site.files = {f"mirror/{path.name}": path.read_bytes() for path in voc_archives.iterdir()}
    site.cut_after = [3_000, 500]
    folder, origin = tmp_path / "made", Origin(url=f"{site.url}/mirror/")
    prepare(todo(voc_set, folder, origin), folder, origin, quiet)
    assert count(voc_set, folder) == (4, 1)
    assert site.requests[1] == "bytes=3000-"
    assert {path.name for path in folder.iterdir()} == {"VOCdevkit"}


def test_archives_come_from_their_own_addresses_if_no_other_place_is_named(
    site, context_archives, tmp_path, quiet
):
    site.files = {path.name: path.read_bytes() for path in context_archives.iterdir()}
    data_set = official(DATA_SETS["pascal-context"], context_archives)
    archives = [archive._replace(url=f"{site.url}/{archive.name}") for archive in data_set.archives]
    prepare(archives, tmp_path / "made", Origin(), quiet)
    assert count(data_set, tmp_path / "made") == (2, 1)
    assert {archive.url.partition("://")[0] for archive in data_set.archives} == {"https"}


def test_a_folder_that_cannot_be_written_to_is_one_line(voc_set, voc_archives, tmp_path, quiet):
    (tmp_path / "file").write_text("in the way")
    origin = Origin(folder=voc_archives)
    with pytest.raises(
        DatasetError, match=r"file/made: got .*Not a directory.* expected a folder to write to"
    ):
        prepare(todo(voc_set, tmp_path / "file/made", origin), tmp_path / "file/made", origin, quiet)
    (tmp_path / "made").mkdir()
    (tmp_path / "made/VOCdevkit").write_text("in the way")
    with pytest.raises(DatasetError, match="expected a folder to write to"):
        prepare(todo(voc_set, tmp_path / "made", origin), tmp_path / "made", origin, quiet)


def test_an_archive_with_another_sum_is_removed_and_unpacks_nothing(
    site, voc_set, voc_archives, tmp_path, quiet
):
    content = bytearray((voc_archives / "VOCtrainval_11-May-2012.tar").read_bytes())
    content[2_000] ^= 1
    site.files = {"VOCtrainval_11-May-2012.tar": bytes(content)}
    folder, origin = tmp_path / "made", Origin(url=site.url)
    with pytest.raises(
        DatasetError, match=r"got the MD5 sum \w{32}, expected \w{32} of the official .* removed"
    ):
        prepare(todo(voc_set, folder, origin), folder, origin, quiet)
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    site.files = {path.name: path.read_bytes() for path in voc_archives.iterdir()}
    prepare(todo(voc_set, folder, origin), folder, origin, quiet)
    assert count(voc_set, folder) == (4, 1)


def test_an_archive_of_the_user_with_another_sum_is_left_where_it_is(voc_set, voc_archives, tmp_path, quiet):
    path = voc_archives / "VOCtrainval_11-May-2012.tar"
    path.write_bytes(b"not it")
    origin = Origin(folder=voc_archives)
    with pytest.raises(DatasetError, match=r"expected \w+ of the official .* download it again"):
        prepare(todo(voc_set, tmp_path / "made", origin), tmp_path / "made", origin, quiet)
    assert path.read_bytes() == b"not it"


def test_the_archives_of_the_user_are_never_removed(voc_set, voc_archives, tmp_path, quiet):
    folder = tmp_path / "made"
    folder.mkdir()
    voc_archives.rename(folder / "downloads")  # where ours would lie
    origin = Origin(folder=folder / "downloads")
    prepare(todo(voc_set, folder, origin), folder, origin, quiet)
    assert {path.name for path in (folder / "downloads").iterdir()} == {
        "VOCtrainval_11-May-2012.tar", "benchmark.tgz",
    }  # fmt: skip


def test_masks_that_are_none_are_an_error_and_leave_nothing_half_done(voc_set, voc_archives, tmp_path, quiet):
    from_sbd = next(archive for archive in DATA_SETS["voc"].archives if archive.name == "benchmark.tgz")
    folder, origin = tmp_path / "made", Origin(folder=voc_archives)
    prepare(todo(voc_set, folder, origin)[:1], folder, origin, quiet)
    (voc_archives / "benchmark.tgz").write_bytes((voc_archives / "VOCtrainval_11-May-2012.tar").read_bytes())
    with pytest.raises(DatasetError, match=r"benchmark.tgz: got no dataset/cls/\*.mat"):
        prepare([from_sbd._replace(md5=None)], folder, origin, quiet)
    root = folder / "VOCdevkit/VOC2012"
    assert {path.name for path in root.iterdir()} == {"ImageSets", "JPEGImages", "SegmentationClass"}


def test_without_scipy_the_masks_of_sbd_say_what_to_install(
    voc_set, voc_archives, tmp_path, quiet, monkeypatch
):
    monkeypatch.setitem(sys.modules, "scipy", None)
    folder, origin = tmp_path / "made", Origin(folder=voc_archives)
    with pytest.raises(DatasetError, match=r"expected scipy .* pip install 'semiseg-zoo\[prepare\]'"):
        prepare(todo(voc_set, folder, origin), folder, origin, quiet)


def test_pascal_context_becomes_59_classes_of_the_459_and_the_background(context_archives, tmp_path, quiet):
    data_set = official(DATA_SETS["pascal-context"], context_archives)
    folder, origin = tmp_path / "made", Origin(folder=context_archives)
    made = prepare(todo(data_set, folder, origin), folder, origin, quiet)
    assert [each.is_official for each in made] == [True, False]
    assert (
        made[1].sums.sha256 == hashlib.sha256((context_archives / "trainval.tar.gz").read_bytes()).hexdigest()
    )
    assert count(data_set, folder) == (2, 1)
    source = open_source(f"pascal-context:{folder}")
    # 0 is nothing, 2 aeroplane, 458 wood, 431 "unknown", 284 person
    labels = source.read_mask("val/2008_000015")[0, :5].tolist()
    names = [source.classes.names[label] for label in labels]
    assert names == ["background", "aeroplane", "wood", "background", "person"]
    assert todo(data_set, folder, origin) == []


def test_cityscapes_is_unpacked_from_the_archives_that_the_user_got(cityscapes_archives, tmp_path, quiet):
    data_set = DATA_SETS["cityscapes"]
    folder, origin = tmp_path / "made", Origin(folder=cityscapes_archives)
    made = prepare(todo(data_set, folder, origin), folder, origin, quiet)
    assert [each.name for each in made] == [
        "gtFine_trainvaltest.zip", "leftImg8bit_trainvaltest.zip", "leftImg8bit_trainextra.zip",
    ]  # fmt: skip
    assert count(data_set, folder) == (3, 1)
    assert len(open_source(f"cityscapes-extra:{folder}").ids("unlabeled")) == 1
    assert todo(data_set, folder, origin) == []
    assert {path.name for path in folder.iterdir()} == {"gtFine", "leftImg8bit"}


def test_the_extra_images_of_cityscapes_can_come_later_or_never(cityscapes_archives, tmp_path, quiet):
    data_set, folder, origin = DATA_SETS["cityscapes"], tmp_path / "made", Origin(folder=cityscapes_archives)
    extra = cityscapes_archives / "leftImg8bit_trainextra.zip"
    extra.rename(tmp_path / "kept.zip")
    prepare(todo(data_set, folder, origin), folder, origin, quiet)
    assert todo(data_set, folder, origin) == []
    (tmp_path / "kept.zip").rename(extra)
    assert [archive.name for archive in todo(data_set, folder, origin)] == [extra.name]


def test_cityscapes_without_archives_says_where_to_log_in(tmp_path, quiet):
    data_set = DATA_SETS["cityscapes"]
    with pytest.raises(
        DatasetError, match=r"wants a login: download it from https://www.cityscapes.* --from"
    ):
        prepare(todo(data_set, tmp_path, Origin()), tmp_path, Origin(), quiet)
    (tmp_path / "empty").mkdir()
    origin = Origin(folder=tmp_path / "empty")
    with pytest.raises(
        DatasetError, match=r"empty: got no gtFine_trainvaltest.zip, expected the archive under"
    ):
        prepare(todo(data_set, tmp_path, origin), tmp_path, origin, quiet)


def test_the_sums_of_voc_and_sbd_are_those_of_torchvision():
    from torchvision.datasets.sbd import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    known = {archive.name: archive for data_set in DATA_SETS.values() for archive in data_set.archives}
    for year in ("2010", "2012"):
        facts = DATASET_YEAR_DICT[year]
        archive = known[facts["url"].rpartition("/")[2]]
        assert (archive.url, archive.md5) == (facts["url"], facts["md5"])
    assert (known["benchmark.tgz"].url, known["benchmark.tgz"].md5) == (SBDataset.url, SBDataset.md5)


def test_a_mask_of_sbd_with_other_labels_is_an_error(voc_archives, write_sbd, tmp_path, quiet):
    write_sbd(voc_archives / "benchmark.tgz", {"2008_000008": [0, 21]})
    data_set = official(DATA_SETS["voc"], voc_archives)
    folder, origin = tmp_path / "made", Origin(folder=voc_archives)
    with pytest.raises(
        DatasetError, match=r"2008_000008.mat, no mask that can be converted .*labels up to 21"
    ):
        prepare(todo(data_set, folder, origin), folder, origin, quiet)
    assert not (folder / "VOCdevkit/VOC2012/SegmentationClassAug").exists()


def test_ade20k_is_unpacked_without_what_its_reader_does_not_read(ade20k_archives, tmp_path, quiet):
    data_set = official(DATA_SETS["ade20k"], ade20k_archives)
    folder, origin = tmp_path / "made", Origin(folder=ade20k_archives)
    made = prepare(todo(data_set, folder, origin), folder, origin, quiet)
    assert [each.is_official for each in made] == [True]
    assert count(data_set, folder) == (2, 1)
    assert {path.name for path in (folder / "ADEChallengeData2016").iterdir()} == {"images", "annotations"}
    assert todo(data_set, folder, origin) == []


@pytest.fixture
def coco_set(coco_archives):
    return official(DATA_SETS["coco"], coco_archives)


def test_coco_gets_one_mask_an_image_with_the_smaller_object_on_top(coco_set, coco_archives, tmp_path, quiet):
    folder, origin = tmp_path / "made", Origin(folder=coco_archives)
    prepare(todo(coco_set, folder, origin), folder, origin, quiet)
    assert count(coco_set, folder) == (2, 1)
    assert todo(coco_set, folder, origin) == []
    assert {path.name for path in folder.iterdir()} == {"train2017", "val2017", "masks"}
    source = open_source(f"coco:{folder}")
    check_source(source)
    assert source.read_mask("val/000000000139")[0].tolist() == [80, 80, 1, 1, 0, 0, 0, 255]
    assert {Image.open(path).mode for path in (folder / "masks").iterdir()} == {"P"}


def test_masks_of_coco_that_are_drawn_are_not_drawn_again(coco_set, coco_archives, tmp_path, quiet):
    folder, origin = tmp_path / "made", Origin(folder=coco_archives)

    def fails_at_the_second(what, done, _):
        if what.startswith("drawing") and done == 2:
            raise OSError("no space left")

    with pytest.raises(DatasetError, match=r"got no space left.* what is done is kept"):
        prepare(todo(coco_set, folder, origin), folder, origin, fails_at_the_second)
    drawn = sorted((folder / "masks").iterdir())
    assert [path.name for path in drawn] == ["000000000009.png", "000000000025.png"]
    assert {path.name for path in folder.iterdir()} == {"train2017", "val2017", "masks"}
    kept = [path.stat().st_ino for path in drawn]
    assert [archive.name for archive in todo(coco_set, folder, origin)] == ["annotations_trainval2017.zip"]
    prepare(todo(coco_set, folder, origin), folder, origin, quiet)
    assert [path.stat().st_ino for path in drawn] == kept
    assert count(coco_set, folder) == (2, 1)


def test_coco_with_images_missing_draws_no_masks(coco, coco_set, coco_archives, quiet):
    shutil.rmtree(coco.root / "masks")
    (coco.root / "train2017/000000000025.jpg").unlink()
    origin = Origin(folder=coco_archives)
    with pytest.raises(
        DatasetError, match=r"train2017: got no 000000000025.jpg \(1 of 2 files are missing\)"
    ):
        prepare(todo(coco_set, coco.root, origin), coco.root, origin, quiet)
    assert list((coco.root / "masks").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"got no annotations/instances_\*.json, expected the instances of both splits"),
        (
            {"categories": [{"id": 1, "name": "cat"}], "images": [], "annotations": []},
            "expected the 80 of COCO",
        ),
    ],
)
def test_annotations_that_are_not_those_of_coco_are_an_error(
    content, message, coco_set, coco_archives, tmp_path, quiet
):
    files = {} if content is None else {"annotations/instances_train2017.json": json.dumps(content).encode()}
    path = coco_archives / "annotations_trainval2017.zip"
    path.unlink()
    with zipfile.ZipFile(path, "w") as zip_:
        for name, text in files.items():
            zip_.writestr(name, text)
    data_set, folder, origin = (
        official(coco_set, coco_archives),
        tmp_path / "made",
        Origin(folder=coco_archives),
    )
    with pytest.raises(DatasetError, match=message):
        prepare(todo(data_set, folder, origin), folder, origin, quiet)
