from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from zoo.errors import DatasetError, ZooError
from zoo.serve.load.http import parse_address, request
from zoo.serve.load.inputs import COUNT, Picture, drawn, of_folder
from zoo.serve.load.target import Asked, find

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    MakeServer = Callable[..., Any]
    Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def asked(server: Any, **changes: Any) -> Asked:
    return Asked(
        **{"url": server.url, "key": None, "model": None, "route": "predict", "timeout": 5.0} | changes
    )


@pytest.fixture
def pictures(pixels: Pixels) -> tuple[Picture, ...]:
    return Picture(b"one", "image/jpeg", pixels), Picture(b"three", "image/png", pixels[:32])


def test_a_server_says_what_it_runs_and_gets_the_images_as_they_are(
    make_server: MakeServer, pictures: tuple[Picture, ...]
) -> None:
    server = make_server()
    found = find(asked(server), pictures)
    assert (found.server.model, found.server.backend, found.server.request_bytes) == ("eln", "ort", 4)
    assert found.server.images == "2 JPEG and PNG of 2 sizes"
    assert server.bodies == [("/predict?format=png&model=eln", b"one")]
    assert b"Content-Type: image/png" in found.target.requests[1]
    assert [each.shape for each in found.inputs] == [(64, 96, 3), (32, 96, 3)]


def test_the_protocol_gets_binary_tensors_of_the_networks_size(
    make_server: MakeServer, pictures: tuple[Picture, ...]
) -> None:
    server = make_server()
    found = find(asked(server, route="oip"), pictures)
    [(route, body)] = server.bodies
    assert route == "/v2/models/eln/infer"
    head = body[: -32 * 48 * 3]
    assert f"Inference-Header-Content-Length: {len(head)}".encode() in found.target.requests[0]
    [tensor], [output] = json.loads(head)["inputs"], json.loads(head)["outputs"]
    assert output["name"] == "mask"  # of two outputs
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("image", "UINT8", [1, 32, 48, 3])
    assert tensor["parameters"] == {"binary_data_size": 32 * 48 * 3}
    assert body[len(head) :] == found.inputs[0].tobytes()
    assert found.server.images == "2 tensors of 48 x 32"


def test_a_key_is_sent_and_never_said(make_server: MakeServer, pictures: tuple[Picture, ...]) -> None:
    server = make_server(key="secret")
    assert find(asked(server, key="secret"), pictures).server.model == "eln"
    for key, got in ((None, "none"), ("wrong-key", "a wrong one")):
        with pytest.raises(ZooError, match=f"needs an API key, got {got}: set ZOO_API_KEY") as caught:
            find(asked(server, key=key), pictures)
        assert "wrong-key" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({}, {"model": "rrn"}, "has no model rrn, expected one of eln"),
        ({"fail_each": 1}, {}, "the first request of the test with 503, expected 200: the queue is full"),
        ({"answer": b"220 mail\r\n\r\n"}, {}, "cannot be reached"),
        ({"answer": b"HTTP/1.1 404 X\r\nContent-Length: 3\r\n\r\nno!"}, {}, "GET /models with 404, .*: no!"),
        (
            {"answer": b"HTTP/1.1 200 X\r\nContent-Length: 3\r\n\r\n<a>"},
            {},
            "without JSON, expected a server",
        ),
        ({"service_s": 0.5}, {"timeout": 0.05}, "did not respond within 0.05 s"),
    ],
)
def test_a_server_that_cannot_be_tested_is_one_line(
    make_server: MakeServer,
    pictures: tuple[Picture, ...],
    options: dict[str, Any],
    changes: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ZooError, match=message) as caught:
        find(asked(make_server(**options), **changes), pictures)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://", "http://a:b", "http://me:pw@host", "http://host?x=1", "ftp://host"]
)
def test_what_is_no_address_of_a_server_is_an_error(url: str) -> None:
    with pytest.raises(ZooError, match=r"expected e\.g\. http://localhost:8000"):
        parse_address(url)


def test_a_request_holds_host_length_and_path_of_a_proxy() -> None:
    address = parse_address("https://[::1]/models/")
    assert (address.host, address.port, address.tls, address.path) == ("::1", 443, True, "/models")
    sent = request(address, "/predict", {"X": "1"}, b"body")
    assert (
        sent == b"POST /models/predict HTTP/1.1\r\nHost: [::1]:443\r\nContent-Length: 4\r\nX: 1\r\n\r\nbody"
    )
    assert request(address, "/x", {}).startswith(b"GET /models/x HTTP/1.1\r\n")


def test_drawn_images_are_different_jpegs_of_the_size() -> None:
    pictures = drawn((32, 48))
    assert len({picture.data for picture in pictures}) == COUNT
    assert {picture.pixels.shape for picture in pictures} == {(32, 48, 3)}
    assert all(picture.data.startswith(b"\xff\xd8") for picture in pictures)


def test_a_folder_gives_its_files_as_they_are(tmp_path: Path, pixels: Pixels) -> None:
    Image.fromarray(pixels).save(tmp_path / "b.png")
    (tmp_path / "notes.txt").write_text("no image")
    [picture] = of_folder(tmp_path)
    assert picture.data == (tmp_path / "b.png").read_bytes()
    assert picture.media_type == "image/png"
    assert np.array_equal(picture.pixels, pixels)
    with pytest.raises(DatasetError, match="has no images"):
        of_folder(tmp_path / "missing")
