"""A folder in which everything is wrong that can be wrong with single files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.inspect.inspection import inspect

CAMVID = Path(__file__).parents[3].parent / "shared" / "data" / "camvid"
WIDTH, HEIGHT = 64, 48


def found(spec) -> set[tuple[str, tuple[str, ...]]]:
    return {(finding.kind, finding.files) for finding in inspect(str(spec)).findings}


def plant_unreadable(folder) -> None:
    folder.pair("cut")
    folder.cut("train/images/cut.png")
    folder.plant("unreadable-image", "train/images/cut.png")
    folder.pair("text")
    folder.path("train/images/text.png").write_text("not an image")
    folder.plant("unreadable-image", "train/images/text.png")
    folder.save("unlabeled/half.jpg", folder.scene())
    folder.cut("unlabeled/half.jpg")
    folder.plant("unreadable-image", "unlabeled/half.jpg")
    folder.pair("cut", split="val")
    folder.cut("val/masks/cut.png")
    folder.plant("unreadable-mask", "val/masks/cut.png")
    folder.pair("empty")
    folder.path("train/masks/empty.png").write_bytes(b"")
    folder.plant("unreadable-mask", "train/masks/empty.png")


def plant_modes(folder) -> None:
    folder.pair("alpha", image=folder.scene().convert("RGBA"))
    folder.plant("image-mode", "train/images/alpha.png")
    folder.pair("deep", image=np.asarray(folder.scene().convert("L"), np.uint16) * 257)
    folder.plant("image-mode", "train/images/deep.png")
    folder.pair("colored", mask=np.dstack([folder.labels()] * 3))
    folder.plant("mask-mode", "train/masks/colored.png")
    folder.pair("deepmask", mask=folder.labels().astype(np.uint16))
    folder.plant("mask-mode", "train/masks/deepmask.png")


def plant_names(folder) -> None:
    folder.save("train/images/nomask.png", folder.scene())
    folder.plant("missing-mask", "train/images/nomask.png")
    folder.save("val/masks/orphan.png", folder.labels())
    folder.plant("orphan-mask", "val/masks/orphan.png")
    folder.save("train/images/Upper.png", folder.scene())
    folder.save("train/masks/upper.png", folder.labels())
    folder.plant("mask-name", "train/images/Upper.png", "train/masks/upper.png")
    folder.save("train/images/city/street.png", folder.scene())
    folder.save("train/masks/city/label-street.png", folder.labels())
    folder.plant("mask-name", "train/images/city/street.png", "train/masks/city/label-street.png")
    folder.pair("twice")
    folder.save("train/images/twice.jpg", folder.scene())
    folder.plant("two-files", "train/images/twice.jpg", "train/images/twice.png")
    for kind, image in (("images", folder.scene()), ("masks", folder.labels())):
        folder.save(f"train/{kind}/two\nlines.png", image)
    folder.plant("unlistable-name", "train/images/two\nlines.png")
    folder.save("val/images/lossy.png", folder.scene())
    folder.save("val/masks/lossy.jpg", folder.labels())
    folder.plant("lossy-mask", "val/masks/lossy.jpg")
    folder.save("train/images/film.gif", folder.scene())
    folder.plant("other-file", "train/images/film.gif")


def plant_sizes(folder) -> None:
    folder.pair("small", mask=folder.labels(WIDTH // 2, HEIGHT // 2))
    folder.plant("size-mismatch", "train/masks/small.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    folder.pair("turned")
    folder.save("train/images/turned.png", folder.scene(), exif=exif)
    folder.plant("exif-rotated", "train/masks/turned.png")
    folder.pair("upright", mask=folder.labels(HEIGHT, WIDTH))
    folder.save("train/images/upright.png", folder.scene(), exif=exif)
    exif[0x0112] = 3
    folder.pair("headdown")
    folder.save("train/images/headdown.png", folder.scene(), exif=exif)
    folder.plant("exif-unclear", "train/masks/headdown.png")
    folder.pair("tiny", image=folder.scene(20, 20), mask=folder.labels(20, 20))
    folder.plant("tiny-image", "train/images/tiny.png")
    folder.pair("long", image=folder.scene(400, 40), mask=folder.labels(400, 40))
    folder.plant("extreme-aspect", "train/images/long.png")


def plant_contents(folder) -> None:
    folder.pair("beyond", mask=folder.labels(values=(0, 1, 7)))
    folder.plant("unknown-value", "train/masks/beyond.png")
    folder.pair("background", mask=folder.labels(values=(0,)))
    folder.plant("all-background", "train/masks/background.png")
    folder.pair("ignored", mask=folder.labels(values=(255,)), split="val")
    folder.plant("all-ignored", "val/masks/ignored.png")
    folder.pair("blank", image=Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9)))
    folder.plant("blank-image", "train/images/blank.png")
    folder.plant("absent-class")  # bike, in val


def plant_copies(folder) -> None:
    folder.pair("original")
    folder.pair("copy")
    shutil.copy(folder.root / "train/images/original.png", folder.root / "train/images/copy.png")
    folder.plant("duplicates", "train/images/copy.png", "train/images/original.png")
    picture = folder.scene()
    folder.pair("once", image=picture)
    folder.save("train/images/again.jpg", picture, quality=90)
    folder.save("train/masks/again.png", folder.labels())
    folder.plant("near-duplicates", "train/images/again.jpg", "train/images/once.png")
    folder.pair("leaked")
    folder.pair("held", split="val")
    shutil.copy(folder.root / "train/images/leaked.png", folder.root / "val/images/held.png")
    folder.plant("leakage", "train/images/leaked.png", "val/images/held.png")
    picture = folder.scene(2 * WIDTH, 2 * HEIGHT)
    folder.save("unlabeled/large.png", picture)
    folder.pair("reduced", image=picture.resize((WIDTH, HEIGHT)), split="val")
    folder.plant("near-leakage", "unlabeled/large.png", "val/images/reduced.png")


PLANTERS = (plant_unreadable, plant_modes, plant_names, plant_sizes, plant_contents, plant_copies)


@pytest.fixture
def spoiled(good):
    for plant in PLANTERS:
        plant(good)
    return good


def test_a_good_folder_but_for_a_class_has_no_other_finding(good):
    inspection = inspect(str(good.root))
    assert [(finding.kind, finding.detail) for finding in inspection.findings] == [
        ("absent-class", "val: bike")
    ]
    assert not inspection.has_faults


def test_every_planted_fault_is_found_by_kind_and_file_and_none_is_invented(spoiled):
    assert len(spoiled.planted) >= 25
    assert len({kind for kind, _ in spoiled.planted}) >= 20
    assert found(spoiled.root) == spoiled.planted


@pytest.mark.skipif(not CAMVID.is_dir(), reason="CamVid is not beside the repository (../shared/data/camvid)")
def test_nothing_is_found_in_camvid():
    inspection = inspect(str(CAMVID))
    assert inspection.findings == []
    assert [found["images"] for found in inspection.counts().values()] == [367, 101, 0]


@pytest.mark.skipif(not CAMVID.is_dir(), reason="CamVid is not beside the repository (../shared/data/camvid)")
def test_copies_of_video_frames_are_told_from_their_neighbors(tmp_path):
    frames = sorted((CAMVID / "val" / "images").glob("0016E5_08*.jpg"))[:6]
    for frame in frames:
        (tmp_path / "unlabeled").mkdir(exist_ok=True)
        shutil.copy(frame, tmp_path / "unlabeled")
    with Image.open(frames[2]) as image:
        image.resize((240, 180)).save(tmp_path / "unlabeled" / "half.jpg", quality=60)
    near = {finding.files for finding in inspect(str(tmp_path)).findings if finding.kind == "near-duplicates"}
    assert near == {(f"unlabeled/{frames[2].name}", "unlabeled/half.jpg")}
