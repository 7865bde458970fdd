"""Who may ask, and how much."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from zoo.serve.server.core.admission import Budget
from zoo.serve.server.core.errors import QueueFullError
from zoo.serve.server.core.settings import ServerSettings, is_loopback
from zoo.serve.server.http.guards import Access

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from tests.serve.server.conftest import Running, ServeApp

KEY = "correct horse"


@pytest.fixture
def guarded(serve_app: ServeApp) -> Running:
    return serve_app(api_key=KEY)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": "wrong"},
        {"x-api-key": ""},
        {"x-api-key": f"{KEY}x"},
        {"authorization": KEY},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {KEY}"},
    ],
)
def test_a_request_without_the_right_key_is_401(guarded: Running, headers: dict[str, str]) -> None:
    answer = guarded.client.post("/predict", content=b"x", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert KEY not in answer.text


@pytest.mark.parametrize(
    "headers", [{"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}, {"authorization": f"bearer  {KEY}"}]
)
def test_a_request_with_the_key_is_let_in(guarded: Running, headers: dict[str, str]) -> None:
    assert guarded.client.get("/models", headers=headers).status_code == 200


def test_probes_and_the_page_need_no_key_and_all_else_does(guarded: Running) -> None:
    free = ("/", "/app.js", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
    assert {path: guarded.client.get(path).status_code for path in free} == dict.fromkeys(free, 200)
    closed = (
        "/models",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/v2",
        "/v2/models/stand-in",
        "/v2/health",
        "/x",
    )
    assert {path: guarded.client.get(path).status_code for path in closed} == dict.fromkeys(closed, 401)


@pytest.mark.parametrize("client", ["192.0.2.7", "2001:db8::7", "::ffff:192.0.2.7", "10.0.0.1", "testclient"])
def test_without_a_key_other_machines_are_refused(client: str) -> None:
    assert status(client=client) == 403
    assert status(client=client, remote=True) == 200
    assert status(client=client, key=KEY, headers={"x-api-key": KEY}) == 200


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", None])
def test_this_machine_is_let_in(client: str | None) -> None:
    assert status(client=client) == 200


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example.com",
        "localhost.example.com",
        "127.0.0.1.example.com",
        "192.0.2.7:8000",
        "[::2]",
        "",
        "a b[",
    ],
)
def test_without_a_key_another_host_name_is_refused(host: str) -> None:
    assert status(headers={"host": host}) == 403
    assert status(headers={"host": host}, remote=True) == 200


@pytest.mark.parametrize(
    "host", ["localhost:8000", "LOCALHOST", "localhost.", "127.0.0.1:80", "[::1]:8000", "[::1]"]
)
def test_the_names_of_this_machine_are_taken(host: str) -> None:
    assert status(headers={"host": host}) == 200


@pytest.mark.parametrize("origin", ["https://evil.example.com", "null", "http://localhost.example.com"])
def test_without_a_key_a_page_of_another_host_is_refused(origin: str) -> None:
    assert status(headers={"host": "localhost", "origin": origin}) == 403
    assert status(headers={"host": "localhost", "origin": "http://127.0.0.1:8000"}) == 200


def test_a_rebound_host_is_refused_by_a_real_server(serve_app: ServeApp) -> None:
    answer = serve_app().client.get("/models", headers={"host": "rebound.example.com"})
    assert answer.status_code == 403
    assert "rebound.example.com" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "example.com", "127.1.1", "0x7f.1"])
def test_what_is_not_surely_this_machine_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_a_body_over_the_limit_is_413_before_it_is_sent(serve_app: ServeApp) -> None:
    server = serve_app(max_body_mb=0.1)
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000000\r\n\r\n")
        answer = connection.recv(2000).decode()
    assert answer.startswith("HTTP/1.1 413 ")
    assert "got a body of 50000000 bytes or more, expected at most 100000: send a smaller one" in answer


def test_a_body_in_chunks_is_stopped_at_the_limit(serve_app: ServeApp) -> None:
    server = serve_app(max_body_mb=0.1)

    def chunks() -> Any:
        for _ in range(40):
            yield b"x" * 10_000

    answer = server.client.post("/predict", content=chunks())
    assert answer.status_code == 413
    assert server.client.get("/healthz").status_code == 200


def test_a_body_that_does_not_come_is_408_in_time(serve_app: ServeApp) -> None:
    server = serve_app(timeout=0.3)
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
        answer = connection.recv(2000).decode()
        assert time.monotonic() - begin < 3.0
        assert answer.startswith("HTTP/1.1 408 ")
        assert re.search(r"got 3 bytes of the body in \d\.\d s", answer)
        while connection.recv(2000):  # until the server closes
            pass
    assert time.monotonic() - begin < 4.0


def test_a_budget_refuses_what_it_has_no_room_for() -> None:
    budget = Budget(100)
    budget.hold(60)
    with pytest.raises(QueueFullError, match="take 60 bytes, the limit is 100"):
        budget.hold(41)
    budget.release(60)
    budget.hold(100)


def test_bodies_that_would_take_too_much_memory_together_are_503(serve_app: ServeApp) -> None:
    server = serve_app(max_body_mb=0.1, max_pixels=1)  # 16 times 100,003 bytes
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    connections = [socket.create_connection(("127.0.0.1", server.port), 5) for _ in range(17)]
    for connection in connections:
        connection.sendall(head + b"x" * 99_999)
    answers = [connection for connection in connections if readable(connection)]
    assert len(answers) == 1
    assert answers[0].recv(2000).startswith(b"HTTP/1.1 503 ")
    for connection in connections:
        connection.close()
    until = time.monotonic() + 5
    while (
        server.client.post("/predict", content=bytes(99_999)).status_code == 503
    ):  # until they are seen to be gone
        assert time.monotonic() < until


def readable(connection: socket.socket) -> bool:
    connection.settimeout(0.3 / 17)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False
    finally:
        connection.settimeout(5)


def status(
    client: str | None = "127.0.0.1",
    headers: dict[str, str] | None = None,
    key: str | None = None,
    remote: bool = False,
) -> int:
    """Return the status that a request from an address gets."""
    answers: list[Message] = []

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Message) -> None:
        answers.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    settings = ServerSettings.model_validate({"api_key": key, "remote": remote})
    scope = {
        "type": "http",
        "path": "/predict",
        "client": client and (client, 1),
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
    }
    asyncio.run(Access(app, settings, frozenset())(scope, receive, send))
    result: int = answers[0]["status"]
    return result
