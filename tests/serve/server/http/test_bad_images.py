"""What may be wrong or unusual with an image, each on a real server on loopback with a real ONNX model."""

from __future__ import annotations

import io
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from zoo.predictors.runtimes.ort import OrtPredictor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import WriteOnnx
    from tests.serve.server.conftest import Pictures, Running, ServeApp


@pytest.fixture
def onnx(write_onnx: WriteOnnx, tmp_path: Path) -> OrtPredictor:
    return OrtPredictor(write_onnx(tmp_path / "model.onnx"), threads=1)


@pytest.fixture
def server(serve_app: ServeApp, onnx: OrtPredictor) -> Running:
    return serve_app({"onnx": onnx})


def bomb(side: int, pictures: Pictures) -> bytes:
    """Return a PNG of side x side black pixels, made without ever having them in memory."""

    stream = zlib.compressobj(9)
    rows = [stream.compress(bytes(1 + side // 8)) for _ in range(side)]
    return pictures.png((side, side), 1, 0, b"".join([*rows, stream.flush()]))


def animation(format_: str, pictures: Pictures) -> bytes:
    return pictures.file(
        pictures.image(0), format_, save_all=True, append_images=[pictures.image(1), pictures.image(2)]
    )


BAD: dict[str, tuple[Callable[[Pictures], bytes], int, str]] = {
    "no bytes": (lambda _: b"", 400, "0 bytes"),
    "garbage": (lambda _: bytes(range(256)) * 40, 400, "not an image"),
    "text": (lambda _: b"<html>hello</html>", 400, "not an image"),
    "truncated JPEG": (lambda make: make.file(format_="JPEG")[:-200], 400, "cannot be decoded"),
    "truncated PNG": (lambda make: make.file()[:-40], 400, "cannot be decoded"),
    "header only": (lambda make: make.file()[:33], 400, "not an image"),
    "16-bit PNG": (
        lambda make: make.file(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "PNG"),
        400,
        "more than 8 bits",
    ),
    "transparent PNG": (lambda make: make.file(Image.new("RGBA", (8, 8))), 400, "transparent"),
    "PDF": (lambda make: make.file(format_="PDF"), 415, "got PDF"),
    "8,000 x 8,000 pixels": (lambda make: bomb(8_000, make), 413, "8000 x 8000"),
    "20,000 x 20,000 pixels": (lambda make: bomb(20_000, make), 413, "at most 40000000"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_refused_in_one_line(server: Running, name: str, pictures: Pictures) -> None:
    make, status, words = BAD[name]
    answer = server.client.post("/predict", content=make(pictures))
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    detail = answer.json()["detail"]
    assert words in detail
    assert "\n" not in detail
    assert "/" not in detail.replace(" / ", "")
    assert server.client.post("/predict", content=pictures.file()).status_code == 200


def test_a_decompression_bomb_takes_no_memory(server: Running, pictures: Pictures) -> None:
    body = bomb(20_000, pictures)
    assert len(body) < 400_000
    with little_memory(30):
        assert server.client.post("/predict", content=body).status_code == 413


def test_50_mb_are_413_and_never_in_memory(server: Running) -> None:
    zeros = bytes(1_000_000)
    with little_memory(45):  # the limit is 32 MB
        answer = server.client.post("/predict", content=(zeros for _ in range(50)))  # of no declared length
    assert answer.status_code == 413


GOOD: dict[str, Callable[[Pictures], bytes]] = {
    "animated GIF": lambda make: animation("GIF", make),
    "animated PNG": lambda make: animation("PNG", make),
    "animated WebP": lambda make: animation("WEBP", make),
    "CMYK JPEG": lambda make: make.file(make.image().convert("CMYK"), "JPEG", quality=95),
    "gray PNG": lambda make: make.file(make.image().convert("L")),
    "palette PNG": lambda make: make.file(make.image().convert("P")),
    "BMP": lambda make: make.file(format_="BMP"),
    "TIFF": lambda make: make.file(format_="TIFF"),
    "one pixel": lambda make: make.file(Image.new("RGB", (1, 1))),
    "one row": lambda make: make.file(Image.new("RGB", (500, 1))),
}


@pytest.mark.parametrize("name", GOOD)
def test_an_unusual_image_is_read_as_pillow_reads_its_first_frame(
    server: Running, onnx: OrtPredictor, name: str, pictures: Pictures
) -> None:
    body = GOOD[name](pictures)
    answer = server.client.post("/predict?format=npy", content=body)
    assert answer.status_code == 200, answer.text
    expected = onnx.predict(np.asarray(Image.open(io.BytesIO(body)).convert("RGB")))
    assert np.array_equal(np.load(io.BytesIO(answer.content)), expected)


def test_a_rotated_photo_is_answered_upright(server: Running, onnx: OrtPredictor, pictures: Pictures) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    body = pictures.file(exif=exif)
    mask = np.load(io.BytesIO(server.client.post("/predict?format=npy", content=body).content))
    assert mask.shape == (48, 32)
    assert np.array_equal(mask, onnx.predict(np.rot90(np.asarray(pictures.image()), -1)))


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
