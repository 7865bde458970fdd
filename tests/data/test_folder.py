import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.folder import FolderSource
from zoo.data.open import open_source
from zoo.data.shapes import ShapesSource
from zoo.errors import DatasetError

CAMVID = Path(__file__).parents[2].parent / "shared" / "data" / "camvid"
IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
MASK = np.array([[0, 1, 2, 255, 0, 0]] * 4, np.uint8)


def save(pixels, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "val"):
        save(IMAGE, tmp_path / split / "images" / "a.png")
        save(MASK, tmp_path / split / "masks" / "a.png")
    return tmp_path


def describe(folder: Path, text: str) -> str:
    (folder / "data.toml").write_text(text)
    return str(folder / "data.toml")


def test_a_plain_folder_needs_no_description(folder):
    source = FolderSource(str(folder))
    assert [source.ids(split) for split in ("train", "unlabeled", "val")] == [("train/a",), (), ("val/a",)]
    assert source.classes.names == ("class_0", "class_1", "class_2")
    assert np.array_equal(source.read_image("train/a"), IMAGE)
    assert np.array_equal(source.read_mask("val/a"), MASK)


def test_ids_are_sorted_relative_paths_without_suffix(folder):
    for name in ("city/b.jpg", "B.JPEG", "z.webp"):
        save(IMAGE, folder / "train" / "images" / name)
        save(MASK, (folder / "train" / "masks" / name).with_suffix(".png"))
    (folder / "train" / "images" / ".hidden.png").write_bytes(b"")
    (folder / "train" / "images" / "notes.txt").write_text("")
    assert FolderSource(str(folder)).ids("train") == ("train/B", "train/a", "train/city/b", "train/z")


@pytest.mark.parametrize("below", ["unlabeled", "unlabeled/images"])
def test_unlabeled_images_need_no_masks(folder, below):
    save(IMAGE, folder / below / "u.bmp")
    source = FolderSource(str(folder))
    assert source.ids("unlabeled") == ("unlabeled/u",)
    assert np.array_equal(source.read_image("unlabeled/u"), IMAGE)
    with pytest.raises(DatasetError, match="an image without a mask"):
        source.read_mask("unlabeled/u")


def test_a_description_names_classes_colors_and_folders(folder):
    (folder / "train").rename(folder / "learn")
    toml = 'train = "learn"\nnames = ["sky", "road", "car"]\npalette = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]'
    source = FolderSource(describe(folder, toml))
    assert source.ids("train") == ("train/a",)
    assert source.classes.names == ("sky", "road", "car")
    assert source.classes.palette[1] == (4, 5, 6)


def test_a_description_lying_in_the_folder_is_found(folder):
    describe(folder, 'names = ["sky", "road", "car"]')
    assert FolderSource(str(folder)).classes.names == ("sky", "road", "car")


def test_a_root_is_relative_to_the_description(folder):
    (folder / "elsewhere").mkdir()
    toml = describe(folder / "elsewhere", 'root = ".."')
    assert FolderSource(toml).ids("val") == ("val/a",)


def test_a_description_may_begin_with_a_byte_order_mark(folder):
    toml = describe(folder, '\ufeffnames = ["a", "b", "c"]')
    assert FolderSource(toml).classes.names == ("a", "b", "c")


def test_a_name_of_two_lines_is_refused(folder):
    for kind in ("images", "masks"):
        for path in (folder / "train" / kind).iterdir():
            path.rename(path.with_stem("a\nb"))
    with pytest.raises(DatasetError, match="got a name of two lines"):
        FolderSource(str(folder))


def test_a_name_that_is_not_utf_8_is_refused(folder):
    for kind in ("images", "masks"):
        for path in (folder / "train" / kind).iterdir():
            path.rename(path.with_name(os.fsdecode(b"f\xfcr") + path.suffix))
    with pytest.raises(DatasetError, match=r"got a name of two lines or not in UTF-8") as caught:
        FolderSource(str(folder))
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (
            'nmaes = ["a", "b"]',
            r"got the unknown key nmaes, expected root, train, val, .* mean names\?",
        ),
        (
            '[coco]\nordr = "file"',
            r"got the unknown key ordr in \[coco\], expected unusable, order: did you mean order\?",
        ),
        ('names = "a"', "got names = 'a', expected: Input should be a valid list"),
        ('names = ["a"]', "expected: List should have at least 2 items"),
        ('names = ["a", 1]', r"got names\.1 = 1, expected: Input should be a valid string"),
        ('names = ["a", "b", "a"]', "got the name a twice"),
        ('names = ["a", " "]', "got an empty class name"),
        ('labels = {"0" = "a", "1" = ""}', "got an empty class name"),
        ("palette = [[0, 0, 300]]", r"got palette\.0\.2 = 300"),
        ("palette = [[0, 0, 0]]", "got 1 colors in palette, expected 3"),
        ('train = "learn"', "got train = 'learn', expected an existing folder"),
        ('root = "nowhere"', "got root = 'nowhere', expected an existing folder"),
        ("names = [", "not TOML"),
    ],
)
def test_a_bad_description_says_which_key_and_what_was_expected(folder, toml, message):
    with pytest.raises(DatasetError, match=message):
        FolderSource(describe(folder, toml))


def test_an_image_without_a_mask_is_named_with_the_remedy(folder):
    save(IMAGE, folder / "train" / "images" / "b.png")
    with pytest.raises(
        DatasetError, match=r"images.b\.png: got no mask b\.png .* move the image to unlabeled/"
    ):
        FolderSource(str(folder))


def test_a_jpeg_mask_is_named_with_the_remedy(folder):
    save(IMAGE, folder / "train" / "images" / "b.png")
    save(MASK, folder / "train" / "masks" / "b.jpg")
    with pytest.raises(DatasetError, match=r"b\.jpg: got a mask in a format that changes its values"):
        FolderSource(str(folder))


def test_two_images_of_one_name_are_an_error(folder):
    save(IMAGE, folder / "train" / "images" / "a.jpg")
    with pytest.raises(DatasetError, match="got a second file named a"):
        FolderSource(str(folder))


def test_a_folder_without_images_says_the_layout(tmp_path):
    with pytest.raises(DatasetError, match="expected a folder with train/images, train/masks"):
        FolderSource(str(tmp_path))


@pytest.mark.parametrize(("mask", "values"), [(MASK * 0 + 255, "255"), (np.where(MASK, 255, 0), "0, 255")])
def test_masks_of_0_and_255_explain_the_trap(folder, mask, values):
    for split in ("train", "val"):
        save(mask.astype(np.uint8), folder / split / "masks" / "a.png")
    with pytest.raises(DatasetError, match=rf"no values but \[{values}\].*255 means ignore.*data check"):
        FolderSource(str(folder))


def test_masks_of_background_alone_are_an_error(folder):
    for split in ("train", "val"):
        save(MASK * 0, folder / split / "masks" / "a.png")
    with pytest.raises(DatasetError, match="at least two classes"):
        FolderSource(str(folder))


def test_one_bit_and_palette_masks_hold_labels(folder):
    binary = Image.fromarray((MASK > 0).astype(np.uint8) * 255).convert("1")
    binary.save(folder / "train" / "masks" / "a.png")
    indexed = Image.fromarray(MASK, mode="L").convert("P")
    indexed.putdata(MASK.ravel().tolist())
    indexed.save(folder / "val" / "masks" / "a.png")
    source = FolderSource(str(folder))
    assert np.array_equal(source.read_mask("train/a"), MASK > 0)
    assert np.array_equal(source.read_mask("val/a"), MASK)


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_gray_and_palette_images_are_read_as_rgb(folder, mode):
    Image.fromarray(IMAGE).convert(mode).save(folder / "train" / "images" / "a.png")
    assert FolderSource(str(folder)).read_image("train/a").shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGBA", "png"), ("LA", "png"), ("I;16", "png"), ("F", "tif"), ("CMYK", "jpg")]
)
def test_an_image_of_another_mode_names_file_mode_and_remedy(folder, mode, suffix):
    (folder / "train" / "images" / "a.png").unlink()
    Image.new(mode, (6, 4)).save(folder / "train" / "images" / f"a.{suffix}")
    with pytest.raises(DatasetError, match=rf"a\.{suffix}: got an image of mode {mode}B?, .*8-bit RGB"):
        FolderSource(str(folder)).read_image("train/a")


@pytest.mark.parametrize(
    ("mode", "remedy"),
    [("RGB", "colors"), *((mode, "8-bit index PNG") for mode in ("RGBA", "I;16", "LA"))],
)
def test_a_mask_of_another_mode_names_file_mode_and_remedy(folder, mode, remedy):
    describe(folder, 'names = ["a", "b", "c"]')
    Image.new(mode, (6, 4)).save(folder / "train" / "masks" / "a.png")
    with pytest.raises(DatasetError, match=rf"a\.png: got a mask of mode {mode}B?, .*{remedy}"):
        FolderSource(str(folder)).read_mask("train/a")


def test_16_bit_rgb_is_an_error_though_pillow_reads_it_as_8_bit(folder, png_file):
    (folder / "train" / "images" / "a.png").write_bytes(png_file((2, 1), 16, 2, zlib.compress(bytes(13))))
    with pytest.raises(DatasetError, match=r"mode RGB;16B, expected"):
        FolderSource(str(folder)).read_image("train/a")


def test_4_bit_gray_masks_are_an_error_because_pillow_spreads_their_values(folder, png_file):
    (folder / "train" / "masks" / "a.png").write_bytes(png_file((2, 1), 4, 0, zlib.compress(b"\0\x12")))
    with pytest.raises(DatasetError, match=r"mode L;4, expected"):
        FolderSource(str(folder))


def test_shapes_folders_and_descriptions_are_opened_by_their_spec(folder):
    assert isinstance(open_source("shapes"), ShapesSource)
    assert open_source(str(folder)).spec == str(folder)
    assert open_source(describe(folder, "")).ids("train") == ("train/a",)


@pytest.mark.parametrize("spec", ["shpaes", "vocc:somewhere", "no/such/folder", ""])
def test_an_unknown_spec_says_what_is_known(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=f"{spec}: got .* expected shapes, .*a data.toml"):
        open_source(spec)


@pytest.mark.skipif(not CAMVID.is_dir(), reason="CamVid is not beside the repository (../shared/data/camvid)")
def test_camvid_is_a_folder():
    source = open_source(str(CAMVID))
    assert [len(source.ids(split)) for split in ("train", "unlabeled", "val")] == [367, 0, 101]
    image, mask = source.read_image(source.ids("val")[0]), source.read_mask(source.ids("val")[0])
    assert image.shape == (360, 480, 3)
    assert mask.shape == (360, 480)


@pytest.mark.parametrize("mask", ["a.png.png", "a_mask.png", "cafe\u0301/a.png"])
def test_masks_with_the_name_of_their_image_and_an_addition_are_found(folder, mask):
    image = "caf\u00e9/a.png" if "/" in mask else "a.png"
    (folder / "train" / "images" / "a.png").unlink()
    (folder / "train" / "masks" / "a.png").unlink()
    save(IMAGE, folder / "train" / "images" / image)
    save(MASK, folder / "train" / "masks" / mask)
    source = FolderSource(str(folder))
    assert source.files[f"train/{image[:-4]}"].mask == folder / "train" / "masks" / mask


@pytest.mark.parametrize("mask", ["A.png", "label-a.png"])
def test_a_mask_with_a_name_like_that_of_its_image_is_named(folder, mask):
    (folder / "train" / "masks" / "a.png").rename(folder / "train" / "masks" / mask)
    with pytest.raises(
        DatasetError, match=rf"got no mask a\.png in .* but {mask}, .*: rename it as its image"
    ):
        FolderSource(str(folder))
