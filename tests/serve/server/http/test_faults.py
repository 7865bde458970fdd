"""What goes wrong with requests, forms, clients and models, each on a real server on loopback."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2

    from tests.serve.server.conftest import Pictures, Running, ServeApp, StandIn


@pytest.fixture
def server(serve_app: ServeApp) -> Running:
    return serve_app()


@pytest.mark.parametrize("content_type", ["application/json", "application/problem+json", "multipart/mixed"])
def test_a_content_type_that_cannot_be_an_image_is_415(server: Running, content_type: str) -> None:
    answer = server.client.post("/predict", content=b"{}", headers={"content-type": content_type})
    assert answer.status_code == 415
    assert "curl -F" in answer.json()["detail"]


@pytest.mark.parametrize(("count", "words"), [(2, "2 files"), (3, "Too many files"), (0, "no files")])
def test_a_form_needs_exactly_one_file(server: Running, count: int, words: str, pictures: Pictures) -> None:
    files = [(f"file{number}", ("a.png", pictures.file())) for number in range(count)]
    fields = {"a": (None, "text")} if not count else {}
    answer = server.client.post("/predict", files=[*files, *fields.items()])
    assert answer.status_code == 400
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x",
        b"--x\r\n\r\n\r\n--x--",
        b"--y\r\n",
        b"--x\r\nContent-Disposition: form-data\r\n\r\n\r\n--x--",
    ],
)
def test_a_broken_form_is_400(server: Running, body: bytes) -> None:
    for content_type in ("multipart/form-data; boundary=x", "multipart/form-data"):
        answer = server.client.post("/predict", content=body, headers={"content-type": content_type})
        assert answer.status_code == 400, answer.text


def test_8_bad_images_among_56_good_ones_fail_alone(
    serve_app: ServeApp, stand_in: StandIn, pictures: Pictures
) -> None:
    server = serve_app({"m": stand_in()}, queue=64)
    red = np.full((32, 32, 3), 90, np.uint8)
    red[0, 0] = (255, 0, 0)  # the stand-in fails on it
    fails = pictures.file(Image.fromarray(red))
    bodies = [pictures.file(pictures.image(number)) for number in range(56)] + [b"garbage", fails] * 4

    def status(body: bytes) -> int:
        return server.client.post("/predict", content=body).status_code

    with ThreadPoolExecutor(64) as pool:
        statuses = list(pool.map(status, bodies))
    assert statuses == [200] * 56 + [400, 500] * 4


def test_a_model_that_fails_tells_no_path(serve_app: ServeApp, stand_in: StandIn, pictures: Pictures) -> None:
    server = serve_app({"m": stand_in((32, 32))})
    red = np.zeros((32, 32, 3), np.uint8)
    red[0, 0] = (255, 0, 0)
    answer = server.client.post("/predict", content=pictures.file(Image.fromarray(red)))
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "m failed on this image" in answer.json()["detail"]


def test_more_than_the_queue_holds_is_503_with_a_time_to_come_back(
    serve_app: ServeApp, stand_in: StandIn, pictures: Pictures
) -> None:
    server = serve_app({"m": stand_in(base_s=0.3)}, max_batch=1, queue=2)
    body = pictures.file()

    def post(_: int) -> httpx2.Response:
        return server.client.post("/predict", content=body)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(post, range(12)))
    assert sorted({answer.status_code for answer in answers}) == [200, 503]
    assert [answer.status_code for answer in answers].count(200) == 3
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert int(refused.headers["retry-after"]) >= 1


def test_a_request_without_room_is_refused_before_its_body_is_sent(
    serve_app: ServeApp, stand_in: StandIn, pictures: Pictures
) -> None:
    server = serve_app({"m": stand_in(base_s=0.5)}, max_batch=1, queue=1)
    body = pictures.file()
    with ThreadPoolExecutor(2) as pool:
        pending = [pool.submit(server.client.post, "/predict", content=body) for _ in range(2)]
        wait_until(lambda: server.models["m"].waiting == 1)
        for path in ("/predict", "/v2/models/m/infer"):
            with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
                head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
                connection.sendall(head.encode())
                assert connection.recv(2000).startswith(b"HTTP/1.1 503 ")
        assert [each.result().status_code for each in pending] == [200, 200]


def test_an_image_that_waits_too_long_is_504(
    serve_app: ServeApp, stand_in: StandIn, pictures: Pictures
) -> None:
    server = serve_app({"m": stand_in(base_s=1.0)}, timeout=0.2)
    answer = server.client.post("/predict", content=pictures.file())
    assert answer.status_code == 504
    assert "in m" in answer.json()["detail"]


def test_slow_headers_are_cut_off(serve_app: ServeApp) -> None:
    server = serve_app(timeout=0.2)
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        assert (
            dripped(connection, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-Slow: 1\r\n" * 200)
            < 200
        )
    assert time.monotonic() - begin < 4
    assert server.client.get("/healthz").status_code == 200


def test_a_slow_body_is_cut_off_even_if_nobody_reads_it(serve_app: ServeApp) -> None:
    server = serve_app(timeout=0.2, api_key="k")
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n")
        assert connection.recv(2000).startswith(b"HTTP/1.1 401 ")
        assert dripped(connection, b"x" * 200) < 200


def test_a_client_that_reads_nothing_is_cut_off(
    serve_app: ServeApp, stand_in: StandIn, pictures: Pictures
) -> None:
    server = serve_app({"m": stand_in((3000, 3000), resize="none", base_s=0)}, timeout=2.0)
    body = pictures.file(Image.new("L", (3000, 3000)))
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        head = b"POST /predict?format=npy HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(body) + body)
        connections = server.server.server_state.connections
        assert connection.recv(12) == b"HTTP/1.1 200"
        assert len(connections) == 1
        wait_until(lambda: not connections, seconds=4.5)  # before an idle connection would be closed


def test_endless_headers_are_cut_off(serve_app: ServeApp) -> None:
    server = serve_app()
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
        sent = 0
        with suppress(OSError):  # of a connection that is closed
            while sent < 10_000_000:
                sent += connection.send(b"x" * 10_000)
        assert sent < 10_000_000
    assert server.client.get("/healthz").status_code == 200


def dripped(connection: socket.socket, data: bytes) -> int:
    """Return how many bytes could be sent, one each 20 ms, until the server closed the connection."""
    connection.settimeout(0.02)
    for number in range(len(data)):
        try:
            connection.sendall(data[number : number + 1])
            if not connection.recv(1000):
                return number
        except TimeoutError:
            continue
        except OSError:
            return number
    return len(data)


def test_a_client_that_goes_away_leaves_the_queue(
    serve_app: ServeApp, stand_in: StandIn, pictures: Pictures
) -> None:
    server = serve_app({"m": stand_in(base_s=1.0)}, max_batch=1)
    model = server.models["m"]
    body = pictures.file()
    request = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    connections = [socket.create_connection(("127.0.0.1", server.port), 5) for _ in range(5)]
    for connection in connections:
        connection.sendall(request)
    wait_until(lambda: model.waiting == 4)
    for connection in connections:
        connection.close()
    wait_until(lambda: model.waiting == 0, seconds=0.8)  # before the first batch is over
    figures = server.client.get("/metrics").text
    assert 'zoo_requests_total{model="m",route="/predict",status="499"} 5.0' in figures


@pytest.mark.parametrize(
    "header", ["Accept: */*", "Content-Encoding: gzip", "Content-Type: multipart/form-data; boundary=x"]
)
def test_a_client_that_goes_away_in_the_middle_of_its_body_is_no_error_of_the_server(
    server: Running, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    request = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n{header}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(request.encode())
        wait_until(lambda: bool(server.server.server_state.tasks))
    wait_until(lambda: not server.server.server_state.tasks)
    assert 'route="/predict",status="499"} 1.0' in server.client.get("/metrics").text
    assert "Traceback" not in caplog.text


@pytest.mark.slow
def test_1000_disconnects_leave_nothing_behind(
    serve_app: ServeApp, stand_in: StandIn, pictures: Pictures
) -> None:
    server = serve_app({"m": stand_in((32, 32))})
    body = pictures.file()
    request = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    threads = threading.active_count()
    for number in range(1000):
        with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
            connection.sendall(request[: 1 + number * 7 % len(request)] if number % 2 else request)
    wait_until(lambda: server.models["m"].waiting == 0 and not server.server.server_state.tasks)
    assert server.client.post("/predict", content=body).status_code == 200
    assert threading.active_count() <= threads + 8
    assert server.app.state.context.budget.held == 0


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)
