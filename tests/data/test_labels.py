import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.classes import IGNORE
from zoo.data.check import check_source
from zoo.data.data_file import DataFile, label_map
from zoo.data.folder import FolderSource
from zoo.errors import DatasetError

RANDOM = np.random.default_rng(0)
IMAGE = np.zeros((8, 12, 3), np.uint8)
CRACK = '[labels]\n0 = "background"\n255 = "crack"\n'
COLORED = "[colors]\nsky = [0, 0, 255]\nroad = [[128, 64, 128], [250, 170, 160]]\n"
COLORS = np.array([[0, 0, 255], [128, 64, 128], [250, 170, 160], [224, 224, 192]], np.uint8)


def save(mask, path: Path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
    image.save(path, **options)


def make_folder(folder: Path, mask, toml: str) -> str:
    (folder / "data.toml").write_text(toml)
    for split in ("train", "val"):
        save(IMAGE if split == "train" else 255 - IMAGE, folder / split / "images" / "a.png")
        save(mask, folder / split / "masks" / "a.png")
    return str(folder)


def slowly(mask, toml: str):
    """Return the labels of a mask, pixel by pixel, from the words of a description without errors."""
    data = tomllib.loads(toml)
    names = data.get("names") or list(data.get("colors") or dict.fromkeys(data.get("labels", {}).values()))
    result = np.zeros(mask.shape[:2], np.uint8)
    for place in np.ndindex(*result.shape):
        code = mask[place].tolist()
        label = IGNORE
        if "labels" in data and str(code) in data["labels"]:
            label = names.index(data["labels"][str(code)])
        if "labels" not in data and "colors" not in data and code < len(names):
            label = code
        for name, colors in data.get("colors", {}).items():
            if code == colors or code in colors:
                label = names.index(name)
        result[place] = IGNORE if code in data.get("ignore", []) else label
    return result


@pytest.mark.parametrize(
    ("values", "toml"),
    [
        ([0, 255], CRACK),
        ([0, 255], 'names = ["crack", "background"]\n' + CRACK),
        ([0, 50, 100, 255], '[labels]\n50 = "a"\n0 = "b"\n100 = "a"\n'),
        ([0, 1, 2, 7, 255], 'names = ["a", "b", "c"]\nignore = [7, 1]\n'),
        ([0, 1, 9, 255], 'names = ["a", "b"]\nunknown = "ignore"\n'),
        ([3, 4, 200], 'unknown = "ignore"\n[labels]\n3 = "a"\n4 = "b"\n'),
    ],
)
def test_values_become_labels_as_the_description_says(tmp_path, values, toml):
    mask = RANDOM.choice(np.array(values, np.uint8), (8, 12))
    source = FolderSource(make_folder(tmp_path, mask, toml))
    assert np.array_equal(source.read_mask("train/a"), slowly(mask, toml))
    assert np.array_equal(source.read_mask("val/a"), slowly(mask, toml))


@pytest.mark.parametrize(
    ("toml", "count"),
    [
        (COLORED, 3),
        ('names = ["road", "sky"]\n' + COLORED, 3),
        ("ignore = [[224, 224, 192]]\n" + COLORED, 4),
        ('unknown = "ignore"\n' + COLORED, 4),
    ],
)
def test_colors_become_labels_as_the_description_says(tmp_path, toml, count):
    mask = COLORS[RANDOM.integers(count, size=(8, 12))]
    source = FolderSource(make_folder(tmp_path, mask, toml))
    assert np.array_equal(source.read_mask("train/a"), slowly(mask, toml))


def test_colors_are_found_in_palette_gray_and_opaque_masks_too(tmp_path):
    mask = COLORS[RANDOM.integers(3, size=(8, 12))]
    palette = Image.fromarray(mask).quantize(3, dither=Image.Dither.NONE)
    opaque = Image.fromarray(mask).convert("RGBA")
    for image in (palette, opaque):
        source = FolderSource(make_folder(tmp_path, image, COLORED))
        assert np.array_equal(source.read_mask("train/a"), slowly(mask, COLORED))
    binary = np.where(RANDOM.integers(2, size=(8, 12)), 255, 0).astype(np.uint8)
    black = "[colors]\nbackground = [0, 0, 0]\ncrack = [255, 255, 255]\n"
    for image in (Image.fromarray(binary), Image.fromarray(binary).convert("1")):
        source = FolderSource(make_folder(tmp_path, image, black))
        assert np.array_equal(source.read_mask("train/a"), binary // 255)


def test_names_and_colors_of_the_classes_come_from_the_description(tmp_path):
    mask = np.tile(COLORS[:3], (8, 4, 1))
    classes = FolderSource(make_folder(tmp_path, mask, COLORED)).classes
    assert (classes.names, classes.palette) == (("sky", "road"), ((0, 0, 255), (128, 64, 128)))
    binary = np.full((8, 12), 255, np.uint8)
    assert FolderSource(make_folder(tmp_path, binary, CRACK)).classes.names == ("background", "crack")


def test_binary_masks_with_a_description_pass_the_check_before_training(tmp_path):
    mask = np.tile(np.array([0, 255], np.uint8), (8, 6))
    check_source(FolderSource(make_folder(tmp_path, mask, CRACK)))


@pytest.mark.parametrize(
    ("mask", "toml", "message"),
    [
        (np.full((8, 12), 7, np.uint8), CRACK, r"a\.png: got the value 7, expected one of 0, 255: add it"),
        (
            np.full((8, 12, 3), 9, np.uint8),
            COLORED,
            r"a\.png: got the color \[9, 9, 9\], expected one of the 3 colors .* unknown = \"ignore\"",
        ),
    ],
)
def test_what_is_listed_nowhere_is_an_error_of_one_line(tmp_path, mask, toml, message):
    with pytest.raises(DatasetError, match=message) as caught:
        FolderSource(make_folder(tmp_path, mask, toml)).read_mask("train/a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (CRACK + COLORED, "got both labels and colors"),
        (
            'names = ["a", "b"]\n' + CRACK,
            r"got the class background in labels, expected one of names \(a, b\)",
        ),
        ('names = ["sky", "b"]\n' + COLORED, "got the class road in colors"),
        ('[labels]\n0 = "a"\n256 = "b"\n', r"got the value 256 in labels, expected 0\.\.255"),
        ('[labels]\nzero = "a"\n1 = "b"\n', "got the value zero in labels"),
        ('[labels]\n0 = "a"\n1 = "a"\n', "got the only class a, expected at least two"),
        ("ignore = [0]\n" + CRACK, "got the value 0 twice"),
        ("[colors]\na = [1, 2, 3]\nb = [[1, 2, 3], [4, 5, 6]]\n", r"got the color \[1, 2, 3\] twice"),
        ("ignore = [7]\n" + COLORED, r"got 7 in ignore, expected colors such as"),
        ("ignore = [[1, 2, 3]]\n" + CRACK, r"got \[1, 2, 3\] in ignore, expected values 0\.\.255"),
        ('unknown = "ignore"\n', "without classes"),
        ('unknown = "drop"\n', "got unknown = 'drop', expected: Input should be 'error' or 'ignore'"),
        ("[colors]\na = [1, 2]\nb = [1, 2, 3]\n", r"got colors\.a"),
        ("[colors]\na = [1, 2, 300]\nb = [1, 2, 3]\n", r"got colors\.a\.2 = 300"),
    ],
)
def test_a_bad_table_says_which_key_and_what_was_expected(tmp_path, toml, message):
    with pytest.raises(DatasetError, match=message) as caught:
        FolderSource(make_folder(tmp_path, np.zeros((8, 12), np.uint8), toml))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("toml", "kind"), [(CRACK, "value"), (COLORED, "color")])
def test_half_a_megapixel_is_mapped_within_20_milliseconds(toml, kind):
    labels = label_map(DataFile.model_validate(tomllib.loads(toml)), Path("data.toml"))
    codes = RANDOM.choice(
        np.array([code for code, _ in labels.codes], np.uint8 if kind == "value" else np.uint32), (512, 1024)
    )
    labels.apply(codes, Path())
    seconds = []
    for _ in range(5):
        begin = time.thread_time()
        labels.apply(codes, Path())
        seconds.append(time.thread_time() - begin)
    assert min(seconds) < 0.02
