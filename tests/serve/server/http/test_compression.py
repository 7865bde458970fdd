"""Compressed request bodies: inflated as they are read, within the limits of the server."""

from __future__ import annotations

import bz2
import gzip
import io
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import pytest

from zoo.serve.server.core.errors import BadRequestError, TooLargeError
from zoo.serve.server.http.compression import Encoding, Inflater, compress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.serve.server.conftest import Pictures, ServeApp

PACK = {"gzip": gzip.compress, "x-gzip": gzip.compress, "GZIP": gzip.compress, "deflate": zlib.compress}


def inflate(packed: bytes, encoding: Encoding, limit: int, part: int = 7) -> bytes:
    """Return a body that arrives in parts."""
    inflater = Inflater(encoding, limit)
    starts = range(0, max(1, len(packed)), part)
    return b"".join(
        inflater.inflate(packed[start : start + part], last=start + part >= len(packed)) for start in starts
    )


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("part", [7, 1_000_000])
def test_a_compressed_body_comes_back_within_its_limit(encoding: Encoding, part: int) -> None:
    body = bytes(range(256)) * 100
    packed = compress(body, encoding)
    assert inflate(packed, encoding, len(body), part) == body
    with pytest.raises(TooLargeError, match="over 25599 bytes"):
        inflate(packed, encoding, len(body) - 1, part)
    for broken in (packed[:-1], packed + b"x", b"", b"x" + packed):
        with pytest.raises(BadRequestError):
            inflate(broken, encoding, len(body), part)


def test_no_more_is_decompressed_than_is_allowed() -> None:
    bomb = zlib.compress(bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(TooLargeError):
        Inflater("deflate", 1_000_000).inflate(bomb, last=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize("encoding", PACK)
def test_a_compressed_image_gets_the_mask_of_the_image(
    serve_app: ServeApp, pictures: Pictures, encoding: str
) -> None:
    client = serve_app().client
    body = pictures.file(format_="BMP")
    plain = client.post("/predict", content=body)
    packed = client.post("/predict", content=PACK[encoding](body), headers={"content-encoding": encoding})
    assert (packed.status_code, packed.content) == (200, plain.content)


def test_a_compressed_form_and_a_compressed_stream_get_the_mask_of_the_image(
    serve_app: ServeApp, pictures: Pictures
) -> None:
    client = serve_app().client
    plain = client.post("/predict", content=pictures.file())
    form = client.build_request("POST", "/predict", files={"image": pictures.file()})
    headers = {"content-type": form.headers["content-type"], "content-encoding": "gzip"}
    packed = client.post("/predict", content=gzip.compress(form.read()), headers=headers)
    assert (packed.status_code, packed.content) == (200, plain.content)

    def parts() -> Iterator[bytes]:
        stream = io.BytesIO(gzip.compress(pictures.file()))
        while part := stream.read(50):
            yield part

    packed = client.post("/predict", content=parts(), headers={"content-encoding": "gzip"})
    assert (packed.status_code, packed.content) == (200, plain.content)


@pytest.mark.parametrize("path", ["/predict", "/v2/models/stand-in/infer"])
@pytest.mark.parametrize(
    ("encoding", "body", "status", "words"),
    [
        ("br", b"x", 415, "got Content-Encoding 'br', expected gzip or deflate"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"x")), 415, "'gzip, gzip'"),
        ("bzip2", bz2.compress(b"x"), 415, "expected gzip or deflate"),
        ("gzip", b"plain", 400, "the body is not gzip"),
        ("gzip", gzip.compress(b"x" * 500)[:-9], 400, "not one whole gzip stream"),
        ("gzip", gzip.compress(bytes(50_000_000)), 413, "over 500000 bytes when decompressed"),
        ("deflate", zlib.compress(bytes(50_000_000)), 413, "over 500000 bytes when decompressed"),
    ],
    ids=["br", "twice", "bzip2", "plain", "cut", "gzip-bomb", "deflate-bomb"],  # gzip holds the time of day
)
def test_a_body_that_cannot_be_decompressed_is_refused_in_one_line(
    serve_app: ServeApp, path: str, encoding: str, body: bytes, status: int, words: str
) -> None:
    server = serve_app(max_body_mb=0.5)
    answer = server.client.post(path, content=body, headers={"content-encoding": encoding})
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert server.app.state.context.budget.held == 0


def test_a_request_without_a_body_may_name_any_encoding(serve_app: ServeApp) -> None:
    assert serve_app().client.get("/models", headers={"content-encoding": "br"}).status_code == 200


def test_decompressed_bodies_count_towards_the_memory_budget(serve_app: ServeApp, pictures: Pictures) -> None:
    server = serve_app()
    budget = server.app.state.context.budget
    body = pictures.file(pictures.image().resize((600, 400)), "BMP")
    budget.limit = len(body) // 2
    answer = server.client.post("/predict", content=gzip.compress(body), headers={"content-encoding": "gzip"})
    assert answer.status_code == 503
    assert budget.held == 0
