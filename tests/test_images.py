from __future__ import annotations

import zlib
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from zoo.classes import Classes
from zoo.errors import InvalidImageError
from zoo.images import mask_png, read_rgb

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import PngFile

ORIENTATION = 0x0112


def photo(path: Path, mode: str = "RGB") -> Path:
    Image.linear_gradient("L").resize((50, 40)).convert(mode).save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "suffix", "message"),
    [
        ("I;16", "png", "has more than 8 bits per channel"),
        ("F", "tif", "has more than 8 bits per channel"),
    ],
)
def test_an_image_of_more_than_8_bits_is_an_error_with_a_remedy(
    mode: str, suffix: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.linear_gradient("L").convert("I" if mode == "I;16" else mode).convert(mode).save(path)
    with pytest.raises(InvalidImageError, match=message):
        read_rgb(path)


def test_16_bit_rgb_that_pillow_would_cut_to_8_bits_is_an_error(tmp_path: Path, png_file: PngFile) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(png_file((2, 1), 16, 2, zlib.compress(bytes(13))))
    with pytest.raises(InvalidImageError, match="has more than 8 bits per channel"):
        read_rgb(path)


@pytest.mark.parametrize("count", [2, 3, 7, 21, 255])
def test_a_png_of_a_mask_has_its_labels_and_the_colors_of_the_classes_alone(count: int) -> None:
    classes = Classes.of(tuple(map(str, range(count))))
    mask = np.arange(35 * count, dtype=np.int64).reshape(5, -1) % count
    with Image.open(BytesIO(mask_png(mask.astype(np.uint8), classes))) as image:
        assert np.array_equal(np.asarray(image), mask)
        assert np.array_equal(np.asarray(image.convert("RGB")), classes.colorize(mask))
        assert len(image.getpalette()) == 3 * count


def test_a_file_that_is_no_image_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_text("hello")
    with pytest.raises(
        InvalidImageError, match=r"x\.jpg is not an image that can be read: convert it to PNG or JPEG"
    ):
        read_rgb(path)


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_gray_and_palette_images_become_rgb(mode: str, tmp_path: Path) -> None:
    image = read_rgb(photo(tmp_path / "x.png", mode))
    assert image.shape == (40, 50, 3)
    if mode == "L":
        assert (image[..., 0] == image[..., 2]).all()


def test_an_image_is_turned_upright_as_its_exif_data_say(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the camera was turned by a quarter
    stored = np.zeros((2, 3, 3), np.uint8)
    stored[0, 0] = 255
    Image.fromarray(stored).save(path, exif=exif)
    upright = read_rgb(path)
    assert upright.shape == (3, 2, 3)
    assert upright[0, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_kinds_of_color_become_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.new("RGB", (4, 3), (200, 100, 50)).convert(mode).save(path)
    assert read_rgb(path)[0, 0].tolist() == pytest.approx([200, 100, 50], abs=2)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_channel_must_be_opaque(mode: str, tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 3), (200, 200, 200)).convert(mode)
    image.save(tmp_path / "opaque.png")
    assert read_rgb(tmp_path / "opaque.png").tolist() == [[[200] * 3] * 4] * 3
    image.putalpha(Image.fromarray(np.full((3, 4), 254, np.uint8)))
    image.save(tmp_path / "clear.png")
    with pytest.raises(InvalidImageError, match=r"clear\.png is transparent in places, .*: flatten it onto"):
        read_rgb(tmp_path / "clear.png")
