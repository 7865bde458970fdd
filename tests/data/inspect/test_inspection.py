"""A folder in which everything is wrong that can be wrong with single files, and folders wrong as a whole."""

import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.check import check_source
from zoo.data.data_file import DataFile
from zoo.data.folder import FolderSource
from zoo.data.inspect.facts import ImageFacts
from zoo.data.inspect.findings import KINDS
from zoo.data.inspect.inspection import inspect
from zoo.data.inspect.judge import judge_image
from zoo.data.inspect.proposal import proposal_text, write_proposal
from zoo.errors import DatasetError

CAMVID = Path(__file__).parents[3].parent / "shared" / "data" / "camvid"
WIDTH, HEIGHT = 64, 48
RANDOM = np.random.default_rng(0)


def scene(width=WIDTH, height=HEIGHT):
    """Return an image unlike any other."""
    cells = RANDOM.integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def labels(width=WIDTH, height=HEIGHT, values=(0, 1, 2, 255)):
    return np.resize(np.repeat(np.array(values, np.uint8), 5), (height, width))


class Folder:
    """A folder under construction."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.planted: set[tuple[str, tuple[str, ...]]] = set()

    def path(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def save(self, name: str, pixels, **options) -> str:
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        image.save(self.path(name), **options)
        return name

    def pair(self, name: str, image=None, mask=None, split="train") -> None:
        self.save(f"{split}/images/{name}.png", scene() if image is None else image)
        self.save(f"{split}/masks/{name}.png", labels() if mask is None else mask)

    def plant(self, kind: str, *names: str) -> None:
        self.planted.add((kind, names))

    def cut(self, name: str) -> None:
        path = self.root / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def found(spec) -> set[tuple[str, tuple[str, ...]]]:
    return {(finding.kind, finding.files) for finding in inspect(str(spec)).findings}


@pytest.fixture
def good(tmp_path):
    folder = Folder(tmp_path / "data")
    for number in range(3):
        folder.pair(f"good{number}", mask=labels(values=(0, 1, 2, 3, 255)))
        folder.pair(f"good{number}", split="val")
    folder.path("data.toml").write_text('names = ["sky", "road", "car", "bike"]\n')
    return folder


def plant_unreadable(folder: Folder) -> None:
    folder.pair("cut")
    folder.cut("train/images/cut.png")
    folder.plant("unreadable-image", "train/images/cut.png")
    folder.pair("text")
    folder.path("train/images/text.png").write_text("not an image")
    folder.plant("unreadable-image", "train/images/text.png")
    folder.save("unlabeled/half.jpg", scene())
    folder.cut("unlabeled/half.jpg")
    folder.plant("unreadable-image", "unlabeled/half.jpg")
    folder.pair("cut", split="val")
    folder.cut("val/masks/cut.png")
    folder.plant("unreadable-mask", "val/masks/cut.png")
    folder.pair("empty")
    folder.path("train/masks/empty.png").write_bytes(b"")
    folder.plant("unreadable-mask", "train/masks/empty.png")


def plant_modes(folder: Folder) -> None:
    folder.pair("alpha", image=scene().convert("RGBA"))
    folder.plant("image-mode", "train/images/alpha.png")
    folder.pair("deep", image=np.asarray(scene().convert("L"), np.uint16) * 257)
    folder.plant("image-mode", "train/images/deep.png")
    folder.pair("colored", mask=np.dstack([labels()] * 3))
    folder.plant("mask-mode", "train/masks/colored.png")
    folder.pair("deepmask", mask=labels().astype(np.uint16))
    folder.plant("mask-mode", "train/masks/deepmask.png")


def plant_names(folder: Folder) -> None:
    folder.save("train/images/nomask.png", scene())
    folder.plant("missing-mask", "train/images/nomask.png")
    folder.save("val/masks/orphan.png", labels())
    folder.plant("orphan-mask", "val/masks/orphan.png")
    folder.save("train/images/Upper.png", scene())
    folder.save("train/masks/upper.png", labels())
    folder.plant("mask-name", "train/images/Upper.png", "train/masks/upper.png")
    folder.save("train/images/city/street.png", scene())
    folder.save("train/masks/city/street_mask.png", labels())
    folder.plant("mask-name", "train/images/city/street.png", "train/masks/city/street_mask.png")
    folder.pair("twice")
    folder.save("train/images/twice.jpg", scene())
    folder.plant("two-files", "train/images/twice.jpg", "train/images/twice.png")
    folder.save("val/images/lossy.png", scene())
    folder.save("val/masks/lossy.jpg", labels())
    folder.plant("lossy-mask", "val/masks/lossy.jpg")
    folder.save("train/images/film.gif", scene())
    folder.plant("other-file", "train/images/film.gif")


def plant_sizes(folder: Folder) -> None:
    folder.pair("small", mask=labels(WIDTH // 2, HEIGHT // 2))
    folder.plant("size-mismatch", "train/masks/small.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    folder.pair("turned")
    folder.save("train/images/turned.png", scene(), exif=exif)
    folder.plant("exif-rotated", "train/masks/turned.png")
    folder.pair("upright", mask=labels(HEIGHT, WIDTH))
    folder.save("train/images/upright.png", scene(), exif=exif)
    exif[0x0112] = 3
    folder.pair("headdown")
    folder.save("train/images/headdown.png", scene(), exif=exif)
    folder.plant("exif-unclear", "train/masks/headdown.png")
    folder.pair("tiny", image=scene(20, 20), mask=labels(20, 20))
    folder.plant("tiny-image", "train/images/tiny.png")
    folder.pair("long", image=scene(400, 40), mask=labels(400, 40))
    folder.plant("extreme-aspect", "train/images/long.png")


def plant_contents(folder: Folder) -> None:
    folder.pair("beyond", mask=labels(values=(0, 1, 7)))
    folder.plant("unknown-value", "train/masks/beyond.png")
    folder.pair("background", mask=labels(values=(0,)))
    folder.plant("all-background", "train/masks/background.png")
    folder.pair("ignored", mask=labels(values=(255,)), split="val")
    folder.plant("all-ignored", "val/masks/ignored.png")
    folder.pair("blank", image=Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9)))
    folder.plant("blank-image", "train/images/blank.png")
    folder.plant("absent-class")  # bike, in val


def plant_copies(folder: Folder) -> None:
    folder.pair("original")
    folder.pair("copy")
    shutil.copy(folder.root / "train/images/original.png", folder.root / "train/images/copy.png")
    folder.plant("duplicates", "train/images/copy.png", "train/images/original.png")
    picture = scene()
    folder.pair("once", image=picture)
    folder.save("train/images/again.jpg", picture, quality=90)
    folder.save("train/masks/again.png", labels())
    folder.plant("near-duplicates", "train/images/again.jpg", "train/images/once.png")
    folder.pair("leaked")
    folder.pair("held", split="val")
    shutil.copy(folder.root / "train/images/leaked.png", folder.root / "val/images/held.png")
    folder.plant("leakage", "train/images/leaked.png", "val/images/held.png")
    picture = scene(2 * WIDTH, 2 * HEIGHT)
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


def make_masks(folder: Folder, masks) -> Folder:
    for split in ("train", "val"):
        for number, mask in enumerate(masks):
            folder.pair(f"{number}", mask=mask, split=split)
    return folder


COLORS = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [224, 224, 192]], np.uint8)


@pytest.mark.parametrize(
    ("mask", "kind", "expected"),
    [
        (labels(values=(0, 0, 255)), "binary-masks", labels(values=(0, 0, 1))),
        (labels(values=(0, 100, 200)), "sparse-values", labels(values=(0, 1, 2))),
        (COLORS[labels(values=(0, 2, 2, 1, 3))], "color-masks", labels(values=(0, 1, 1, 2, 255))),
        (labels(values=(0, 1, 2, 255)), None, labels(values=(0, 1, 2, 255))),
    ],
)
def test_the_proposed_description_makes_the_folder_ready_for_training(tmp_path, mask, kind, expected):
    folder = make_masks(Folder(tmp_path), [mask])
    inspection = inspect(str(tmp_path))
    assert {finding.kind for finding in inspection.findings} == ({kind} if kind else set())
    write_proposal(inspection.meaning.proposal, inspection.root, tmp_path / "data.toml")
    assert found(tmp_path) == set()
    source = FolderSource(str(tmp_path))
    check_source(source)
    assert np.array_equal(source.read_mask("train/0"), expected)
    assert inspect(str(tmp_path)).meaning.proposal is None
    assert folder.root == tmp_path


def test_a_description_written_elsewhere_leads_back_to_the_images(tmp_path):
    make_masks(Folder(tmp_path / "data"), [labels(values=(0, 255))])
    inspection = inspect(str(tmp_path / "data"))
    path = tmp_path / "other" / "mine.toml"
    write_proposal(inspection.meaning.proposal, inspection.root, path)
    assert found(path) == set()
    assert FolderSource(str(path)).classes.names == ("background", "foreground")


def test_names_of_any_letters_survive_the_proposal():
    data = DataFile(train="a b", names=['"quoted"', "ü [x]"], ignore=[7])
    assert DataFile.model_validate(tomllib.loads(proposal_text(data))) == data


def test_names_are_kept_for_binary_masks(tmp_path):
    folder = make_masks(Folder(tmp_path), [labels(values=(0, 255))])
    folder.path("data.toml").write_text('names = ["wall", "crack"]\n')
    assert found(tmp_path) == {("binary-masks", ("train/masks/0.png", "val/masks/0.png"))}
    assert inspect(str(tmp_path)).meaning.proposal.labels == {"0": "wall", "255": "crack"}


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_soft_masks_are_found(tmp_path, mode):
    soft = np.asarray(scene(96, 96).convert(mode))
    folder = make_masks(Folder(tmp_path), [labels()] * 2)
    folder.pair("soft", image=scene(96, 96), mask=soft)
    assert found(tmp_path) == {("soft-masks", ("train/masks/soft.png",))}


def test_unknown_colors_are_found_by_file(tmp_path):
    folder = make_masks(Folder(tmp_path), [COLORS[labels(values=(0, 1))]] * 2)
    folder.pair("odd", mask=COLORS[labels(values=(0, 1, 2))])
    folder.path("data.toml").write_text("[colors]\nground = [0, 0, 0]\nrust = [128, 0, 0]\n")
    findings = inspect(str(tmp_path)).findings
    assert [(finding.kind, finding.files, finding.detail) for finding in findings] == [
        ("unknown-color", ("train/masks/odd.png",), "the color [0, 128, 0]")
    ]


def test_masks_of_one_class_are_found(tmp_path):
    make_masks(Folder(tmp_path), [labels(values=(1,))])
    assert ("one-class", ()) in found(tmp_path)


def test_a_folder_of_another_layout_says_what_it_holds(tmp_path):
    Folder(tmp_path).save("train/JPEGImages/a.png", scene())
    findings = inspect(str(tmp_path)).findings
    assert [(finding.kind, finding.detail) for finding in findings] == [
        ("no-images", "train: it holds JPEGImages"),
        ("no-images", "val: no such folder"),
    ]


@pytest.mark.parametrize("toml", ["names = [", 'names = ["a"]', "[colors]\na = [1, 2, 3]\nb = [1, 2, 3]\n"])
def test_a_broken_description_is_a_finding_and_the_rest_is_checked(good, toml):
    good.path("data.toml").write_text(toml)
    good.cut("train/images/good1.png")
    kinds = {finding.kind for finding in inspect(str(good.root)).findings}
    assert {"data-file", "unreadable-image"} <= kinds


def test_a_named_folder_that_is_not_there_is_found(good):
    good.path("data.toml").write_text('unlabeled = "more"\nnames = ["a", "b", "c", "d"]\n')
    details = [finding.detail for finding in inspect(str(good.root)).findings if finding.kind == "data-file"]
    assert len(details) == 1
    assert "got unlabeled = 'more', expected an existing folder" in details[0]


def test_hidden_files_and_those_of_a_file_manager_are_not_findings(good):
    for name in ("train/images/.DS_Store", "train/masks/Thumbs.db", "unlabeled/__MACOSX/x.png"):
        good.path(name).write_bytes(b"")
    assert found(good.root) == {("absent-class", ())}


def test_a_folder_without_faults_is_one_that_training_takes(good):
    check_source(FolderSource(str(good.root)))


def test_a_huge_image_is_found():
    assert [finding.kind for finding in judge_image("a", ImageFacts(mode="RGB", size=(8000, 8000)))] == [
        "huge-image"
    ]


@pytest.mark.parametrize("spec", ["shapes", "voc:somewhere", "no/folder"])
def test_what_is_no_folder_is_an_error_of_one_line(spec):
    with pytest.raises(DatasetError, match=f"{spec}: got neither a folder nor a data.toml"):
        inspect(spec)


def test_every_kind_says_what_to_do():
    assert all(kind.title and kind.remedy for kind in KINDS.values())
