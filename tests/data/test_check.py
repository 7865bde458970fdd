import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.cache import memo
from zoo.data.check import check_source
from zoo.data.folder import FolderSource
from zoo.data.inspect import facts, inspection
from zoo.data.inspect.inspection import inspect
from zoo.data.shapes import ShapesSource
from zoo.errors import DatasetError

CAMVID = Path(__file__).parents[2].parent / "shared" / "data" / "camvid"
IMAGE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
MASK = np.tile(np.array([0, 1, 2, 255], np.uint8), (16, 6))


def save(pixels, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data.toml").write_text('names = ["a", "b", "c"]')
    for split in ("train", "val"):
        for name in ("1", "2", "3"):
            save(IMAGE if split == "train" else 255 - IMAGE, tmp_path / split / "images" / f"{name}.jpg")
            save(MASK, tmp_path / split / "masks" / f"{name}.png")
    save(IMAGE, tmp_path / "unlabeled" / "u.png")
    return tmp_path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_good_folder_passes_and_reports_its_progress(folder):
    calls = []
    check_source(FolderSource(str(folder)), lambda done, total: calls.append((done, total)))
    assert calls == [(done, 7) for done in range(1, 8)]


def test_a_mask_value_beyond_the_classes_names_file_value_and_remedy(folder):
    save(MASK * 0 + 7, folder / "val" / "masks" / "2.png")
    with pytest.raises(
        DatasetError, match=r"val.masks.2\.png: got the value 7, expected 0\.\.2 or 255.*data\.toml"
    ):
        check_source(FolderSource(str(folder)))


def test_a_mask_of_another_size_names_both_sizes(folder):
    save(MASK[:8], folder / "train" / "masks" / "2.png")
    with pytest.raises(DatasetError, match=r"2\.png: got a mask of 24x8 pixels, expected 24x16"):
        check_source(FolderSource(str(folder)))


@pytest.mark.parametrize(
    "name", ["train/images/2.jpg", "train/masks/2.png", "val/images/1.jpg", "unlabeled/u.png"]
)
def test_a_truncated_file_is_named(folder, name):
    cut(folder / name)
    with pytest.raises(DatasetError, match=f"{name}: got a file that cannot be read"):
        check_source(FolderSource(str(folder)))


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_a_file_that_is_no_image_is_named(folder, content):
    (folder / "train" / "images" / "2.jpg").write_bytes(content)
    with pytest.raises(DatasetError, match=r"2\.jpg: got a file that cannot be read"):
        check_source(FolderSource(str(folder)))


def test_damaged_bytes_raise_a_dataset_error_or_nothing(folder):
    random = np.random.default_rng(0)
    for name in ("train/images/1.jpg", "train/masks/1.png"):
        good = np.frombuffer((folder / name).read_bytes(), np.uint8)
        for _ in range(60):
            damaged = good.copy()
            damaged[random.integers(0, len(good), 4)] = random.integers(0, 256, 4)
            (folder / name).write_bytes(damaged.tobytes())
            try:
                check_source(FolderSource(str(folder)))
            except DatasetError as error:
                assert name in str(error)  # noqa: PT017 - some damage goes unseen
        (folder / name).write_bytes(good.tobytes())


def test_a_wrong_mode_is_named(folder):
    save(IMAGE, folder / "train" / "masks" / "2.png")
    with pytest.raises(DatasetError, match=r"2\.png: got a mask of mode RGB"):
        check_source(FolderSource(str(folder)))


def test_the_first_error_in_the_order_of_the_ids_is_raised(folder):
    cut(folder / "val" / "images" / "1.jpg")
    cut(folder / "unlabeled" / "u.png")
    save(MASK[:8], folder / "train" / "masks" / "3.png")
    save(MASK * 0 + 7, folder / "train" / "masks" / "2.png")
    with pytest.raises(DatasetError, match=r"2\.png: got the value 7"):
        check_source(FolderSource(str(folder)))


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split_is_an_error(folder, split):
    (folder / split).rename(folder / "away")
    with pytest.raises(DatasetError, match=f"got no images in split {split}"):
        check_source(FolderSource(str(folder)))


def test_binary_masks_stored_as_255_are_an_error_although_the_classes_are_named(folder):
    for path in folder.rglob("masks/*.png"):
        save(np.where(MASK, 255, 0).astype(np.uint8), path)
    with pytest.raises(DatasetError, match=r"no values but \[0, 255\].*data check"):
        check_source(FolderSource(str(folder)))


def test_a_drawn_source_is_not_decoded():
    calls = []
    check_source(ShapesSource(), lambda done, total: calls.append((done, total)))
    assert calls == []


@pytest.mark.skipif(not CAMVID.is_dir(), reason="CamVid is not beside the repository (../shared/data/camvid)")
def test_camvid_passes():
    check_source(FolderSource(str(CAMVID)))


def test_an_image_of_val_that_is_also_in_train_stops_training_and_is_named(folder):
    shutil.copy(folder / "train" / "images" / "2.jpg", folder / "val" / "images" / "2.jpg")
    with pytest.raises(DatasetError, match=r"unlabeled too \(train/images/1\.jpg, .*val/images/2\.jpg"):
        check_source(FolderSource(str(folder)))


def test_warnings_are_logged_in_a_line_for_each_kind(folder, caplog):
    with caplog.at_level(logging.WARNING):
        check_source(FolderSource(str(folder)))
    assert all(line.startswith(f"{folder}: got ") and "\n" not in line for line in caplog.messages)
    assert any("and 6 more: remove them, or use larger ones" in line for line in caplog.messages)  # tiny
    assert any("files that are the same image (train/images/1.jpg, " in line for line in caplog.messages)


def test_further_pages_of_images_and_masks_are_counted_and_reported(folder, caplog):
    picture = Image.fromarray(255 - IMAGE // 2)
    (folder / "train" / "images" / "2.jpg").unlink()
    picture.save(folder / "train" / "images" / "2.tif", save_all=True, append_images=[picture] * 2)
    mask = Image.fromarray(MASK)
    (folder / "val" / "masks" / "3.png").unlink()
    mask.save(folder / "val" / "masks" / "3.tif", save_all=True, append_images=[mask])
    with caplog.at_level(logging.WARNING):
        check_source(FolderSource(str(folder)))
    (line,) = (line for line in caplog.messages if "several pages" in line)
    assert "of which only the first is used (train/images/2.tif: 3 pages), and 1 more" in line
    pages = [(one.files, one.detail) for one in inspect(str(folder)).findings if one.kind == "more-pages"]
    assert pages == [(("train/images/2.tif",), "3 pages"), (("val/masks/3.tif",), "2 pages")]


def test_an_image_above_pillows_limit_is_not_called_an_attack(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DatasetError, match=r"it has 384 pixels, more than 200: cut it into tiles"):
        check_source(FolderSource(str(folder)))


@pytest.fixture
def large(folder, monkeypatch, tmp_path_factory):
    """Return the folder, whose results are kept as those of a large one are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(memo, "FEWEST", 1)
    (folder / "data.toml").unlink()
    return folder


def count_reads(monkeypatch):
    reads = []
    read = facts.read_facts
    monkeypatch.setattr(inspection, "read_facts", lambda job: (reads.append(job), read(job))[1])
    return reads


def test_a_second_start_reads_no_file_and_says_the_same(large, monkeypatch, caplog):
    reads = count_reads(monkeypatch)
    said = []
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            source = FolderSource(str(large))
            check_source(source)
        said.append((caplog.messages, source.classes, source.palettes))
    assert len(reads) == 7
    assert said[0] == said[1]
    assert said[0][0]


@pytest.mark.parametrize("change", ["mask", "orphan", "description"])
def test_a_change_of_any_file_makes_the_next_start_read_all(large, monkeypatch, change):
    check_source(FolderSource(str(large)))
    reads = count_reads(monkeypatch)
    if change == "mask":
        path = large / "train" / "masks" / "2.png"
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        save(MASK[:, ::-1], path)
        os.utime(path, ns=times)  # of a tool that restores them
    elif change == "orphan":
        save(MASK, large / "train" / "masks" / "9.png")
    else:
        (large / "data.toml").write_text('names = ["x", "y", "z"]')
    check_source(FolderSource(str(large)))
    assert len(reads) == 7


def test_a_cache_that_cannot_be_written_or_is_broken_changes_nothing(large, tmp_path_factory, monkeypatch):
    check_source(FolderSource(str(large)))
    (kept,) = memo.cache_home().rglob("*.json")
    kept.write_text("{")
    check_source(FolderSource(str(large)))
    file = tmp_path_factory.mktemp("other") / "file"
    file.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    check_source(FolderSource(str(large)))


def test_a_fault_is_never_kept(large):
    save(MASK[:8], large / "train" / "masks" / "2.png")
    for _ in range(2):
        with pytest.raises(DatasetError, match="expected 24x16"):
            check_source(FolderSource(str(large)))
