"""What may be wrong or unusual with an image, each on a real server on loopback with a real ONNX model."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from zoo.predictors.ort import OrtPredictor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import WriteOnnx
    from tests.serve.server.conftest import Running, ServeApp


@pytest.fixture
def onnx(write_onnx: WriteOnnx, tmp_path: Path) -> OrtPredictor:
    return OrtPredictor(write_onnx(tmp_path / "model.onnx"), threads=1)


@pytest.fixture
def server(serve_app: ServeApp, onnx: OrtPredictor) -> Running:
    return serve_app({"onnx": onnx})


def picture(seed: int = 0) -> Image.Image:
    """Return an image of 32 x 48 in large blocks."""
    random = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(np.kron(random, np.ones((8, 8, 1), np.uint8)))


def saved(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def bomb(side: int) -> bytes:
    """Return a PNG of side x side black pixels, made without ever having them in memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    stream = zlib.compressobj(9)
    rows = [stream.compress(bytes(1 + side // 8)) for _ in range(side)]
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    data = b"".join([*rows, stream.flush()])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def animation(format_: str) -> bytes:
    return saved(picture(0), format_, save_all=True, append_images=[picture(1), picture(2)])


BAD: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "no bytes": (lambda: b"", 400, "0 bytes"),
    "garbage": (lambda: bytes(range(256)) * 40, 400, "no image"),
    "text": (lambda: b"<html>hello</html>", 400, "no image"),
    "truncated JPEG": (lambda: saved(picture(), "JPEG")[:-200], 400, "cannot be decoded"),
    "truncated PNG": (lambda: saved(picture(), "PNG")[:-40], 400, "cannot be decoded"),
    "header only": (lambda: saved(picture(), "PNG")[:33], 400, "no image"),
    "16-bit PNG": (
        lambda: saved(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "PNG"),
        400,
        "more than 8 bits",
    ),
    "transparent PNG": (lambda: saved(Image.new("RGBA", (8, 8)), "PNG"), 400, "transparent"),
    "PDF": (lambda: saved(picture(), "PDF"), 415, "got PDF"),
    "8,000 x 8,000 pixels": (lambda: bomb(8_000), 413, "8000 x 8000"),
    "20,000 x 20,000 pixels": (lambda: bomb(20_000), 413, "at most 40000000"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_refused_in_one_line(server: Running, name: str) -> None:
    make, status, words = BAD[name]
    answer = server.client.post("/predict", content=make())
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    detail = answer.json()["detail"]
    assert words in detail
    assert "\n" not in detail
    assert "/" not in detail.replace(" / ", "")
    assert server.client.post("/predict", content=saved(picture(), "PNG")).status_code == 200


def test_a_decompression_bomb_takes_no_memory(server: Running) -> None:
    body = bomb(20_000)
    assert len(body) < 400_000
    with little_memory(30):
        assert server.client.post("/predict", content=body).status_code == 413


def test_50_mb_are_413_and_never_in_memory(server: Running) -> None:
    zeros = bytes(1_000_000)
    with little_memory(45):  # the limit is 32 MB
        answer = server.client.post("/predict", content=(zeros for _ in range(50)))  # of no declared length
    assert answer.status_code == 413


GOOD: dict[str, Callable[[], bytes]] = {
    "animated GIF": lambda: animation("GIF"),
    "animated PNG": lambda: animation("PNG"),
    "animated WebP": lambda: animation("WEBP"),
    "CMYK JPEG": lambda: saved(picture().convert("CMYK"), "JPEG", quality=95),
    "grey PNG": lambda: saved(picture().convert("L"), "PNG"),
    "palette PNG": lambda: saved(picture().convert("P"), "PNG"),
    "BMP": lambda: saved(picture(), "BMP"),
    "TIFF": lambda: saved(picture(), "TIFF"),
    "one pixel": lambda: saved(Image.new("RGB", (1, 1)), "PNG"),
    "one row": lambda: saved(Image.new("RGB", (500, 1)), "PNG"),
}


@pytest.mark.parametrize("name", GOOD)
def test_an_unusual_image_is_read_as_pillow_reads_its_first_frame(
    server: Running, onnx: OrtPredictor, name: str
) -> None:
    body = GOOD[name]()
    answer = server.client.post("/predict?format=npy", content=body)
    assert answer.status_code == 200, answer.text
    expected = onnx.predict(np.asarray(Image.open(io.BytesIO(body)).convert("RGB")))
    assert np.array_equal(np.load(io.BytesIO(answer.content)), expected)


def test_a_rotated_photo_is_answered_upright(server: Running, onnx: OrtPredictor) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    body = saved(picture(), "PNG", exif=exif)
    mask = np.load(io.BytesIO(server.client.post("/predict?format=npy", content=body).content))
    assert mask.shape == (48, 32)
    assert np.array_equal(mask, onnx.predict(np.rot90(np.asarray(picture()), -1)))


@contextmanager
def little_memory(megabytes: float) -> Iterator[None]:
    """Raise if this process, the server among it, has more memory at any time in the block."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = memory_mb("VmRSS")
    yield
    assert memory_mb("VmHWM") - before < megabytes


def memory_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(name))
