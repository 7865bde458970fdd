from __future__ import annotations

import io
import time
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from zoo.errors import InvalidImageError
from zoo.serve.server.core.errors import TooLargeError, UnsupportedFormatError
from zoo.serve.server.http.decode import decode

if TYPE_CHECKING:
    from tests.conftest import PngFile

LIMIT = 40_000_000

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def pixels(height: int = 8, width: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("format_", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]
)
def test_formats_without_loss_come_back_as_they_were(format_: str, options: dict[str, Any]) -> None:
    body = encoded(Image.fromarray(pixels()), format_, **options)
    assert np.array_equal(decode(body, LIMIT), pixels())


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_kinds_of_color_become_rgb(mode: str) -> None:
    image = Image.fromarray(pixels()).convert(mode)
    format_ = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    got = decode(encoded(image, format_), LIMIT)
    assert np.array_equal(got, np.asarray(image.convert("RGB")))
    assert got.flags.c_contiguous


def test_a_jpeg_in_cmyk_becomes_rgb() -> None:
    body = encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG")
    red, green, blue = decode(body, LIMIT)[8, 8]
    assert red < 60 < green
    assert blue > 150


def test_an_image_is_turned_upright_as_its_exif_data_say() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise
    body = encoded(Image.fromarray(pixels(8, 12)), "PNG", exif=exif)
    assert np.array_equal(decode(body, LIMIT), np.rot90(pixels(8, 12), -1))


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(format_: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if format_ == "WEBP" else {}
    body = encoded(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    assert decode(body, LIMIT)[4, 4].tolist() == [255, 0, 0]


def test_an_opaque_image_may_have_an_alpha_channel() -> None:
    image = Image.fromarray(pixels()).convert("RGBA")
    assert np.array_equal(decode(encoded(image), LIMIT), pixels())


def test_a_transparent_image_is_refused() -> None:
    body = encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 100)))
    with pytest.raises(InvalidImageError, match="transparent in places"):
        decode(body, LIMIT)


@pytest.mark.parametrize("mode", ["I;16", "F", "RGB;16"])
def test_an_image_of_more_than_8_bits_is_refused(mode: str, png_file: PngFile) -> None:
    deep = png_file((1, 1), 16, 2, zlib.compress(b"\x00" + b"\x12\x34" * 3))
    body = deep if mode == "RGB;16" else encoded(Image.new(mode, (8, 8)), "TIFF")
    with pytest.raises(InvalidImageError, match="more than 8 bits"):
        decode(body, LIMIT)


def test_no_bytes_are_no_image() -> None:
    with pytest.raises(InvalidImageError, match="0 bytes"):
        decode(b"", LIMIT)


@pytest.mark.parametrize("body", [b"\x00" * 100, b"hello world" * 50, b"\xff\xd8\xff\xe0", b"{}"])
def test_garbage_is_no_image(body: bytes) -> None:
    with pytest.raises(InvalidImageError):
        decode(body, LIMIT)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_every_way_to_cut_an_image_short_is_an_invalid_image(format_: str) -> None:
    body = encoded(Image.fromarray(pixels(32, 32)), format_)
    for length in range(1, len(body) * 3 // 4, 17):
        with pytest.raises((InvalidImageError, UnsupportedFormatError)):
            decode(body[:length], LIMIT)


def test_flipped_bits_never_raise_anything_else() -> None:
    random = np.random.default_rng(0)
    for format_ in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"):
        body = encoded(Image.fromarray(pixels(16, 16)), format_)
        for _ in range(60):
            broken = bytearray(body)
            for place in random.integers(0, len(broken), 3):
                broken[place] = random.integers(0, 256)
            try:
                image = decode(bytes(broken), 1_000_000)
            except (InvalidImageError, TooLargeError, UnsupportedFormatError):
                continue
            assert image.ndim == 3


@pytest.mark.parametrize("side", [7_000, 20_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    bomb = encoded(Image.new("1", (side, side)))
    assert len(bomb) < 100_000
    begin = time.thread_time()
    with pytest.raises(TooLargeError, match="at most 40000000"):
        decode(bomb, LIMIT)
    assert time.thread_time() - begin < 0.1


@pytest.mark.parametrize(
    ("body", "name"),
    [(b"%PDF-1.7 ...", "PDF"), (b"\x00\x00\x00\x18ftypheic", "HEIC"), (b"<svg xmlns", "SVG")],
)
def test_a_known_format_that_is_not_taken_is_named(body: bytes, name: str) -> None:
    with pytest.raises(UnsupportedFormatError, match=name):
        decode(body, LIMIT)


def test_a_decoder_that_is_not_listed_never_runs() -> None:
    with pytest.raises(InvalidImageError):
        decode(encoded(Image.fromarray(pixels()), "ICO"), LIMIT)
