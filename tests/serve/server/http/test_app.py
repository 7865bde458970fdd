"""The app around its routes: health, errors, headers, page, log."""

from __future__ import annotations

import json
import logging
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware

from zoo.serve.server.core.logs import JsonFormatter, log_config
from zoo.serve.server.http.routes_page import FOLDER, page_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from tests.serve.server.conftest import ServeApp, StandIn

PROBLEM = "application/problem+json"


def test_the_process_is_alive_and_ready(serve_app: ServeApp) -> None:
    client = serve_app().client
    assert client.get("/healthz").json() == {"alive": True}
    assert client.get("/readyz").json() == {"ready": True, "models": ["stand-in"]}


def test_readiness_is_a_real_inference_asked_for_at_most_once_a_second(
    serve_app: ServeApp, stand_in: StandIn
) -> None:
    predictor: Any = stand_in(base_s=0, image_s=0)
    client = serve_app({"m": predictor}).client
    before = len(predictor.shapes)
    assert [client.get("/readyz").status_code for _ in range(5)] == [200] * 5
    assert len(predictor.shapes) == before + 1
    assert client.get("/healthz").status_code == 200
    assert len(predictor.shapes) == before + 1


def test_a_model_that_fails_makes_the_server_unready_but_not_dead(
    serve_app: ServeApp, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = stand_in(base_s=0, image_s=0)
    client = serve_app({"m": predictor}).client

    def fail(images: NDArray[np.uint8], outputs: Sequence[str]) -> Any:  # noqa: ARG001
        raise RuntimeError(f"no memory for {images.shape} of /srv/model.onnx")

    monkeypatch.setattr(predictor, "infer", fail)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["detail"] == "m failed on a blank image: see the server's log"
    assert client.get("/healthz").status_code == 200
    ready = client.get("/v2/health/ready")
    assert (ready.status_code, ready.json()["error"]) == (503, answer.json()["detail"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/predict/", 404),
        ("GET", "/predict", 405),
        ("DELETE", "/models", 405),
        ("POST", "/predict?format=bmp", 422),
        ("GET", "/v2/models/none", 404),
        ("GET", "/models/none/card", 404),
    ],
)
def test_every_error_is_a_problem_of_one_line(
    serve_app: ServeApp, method: str, path: str, status: int
) -> None:
    answer = serve_app().client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == PROBLEM
    problem = answer.json()
    assert (problem["type"], problem["status"]) == ("about:blank", status)
    assert problem["title"]
    assert "\n" not in problem["detail"]
    assert ("error" in problem) == path.startswith("/v2")


def test_a_method_that_is_not_taken_says_which_is(serve_app: ServeApp) -> None:
    assert serve_app().client.get("/predict").headers["allow"] == "POST"


def test_an_error_that_nobody_foresaw_is_500_without_a_path_and_in_the_log_with_one(
    serve_app: ServeApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError("/srv/secret is gone")

    monkeypatch.setattr("zoo.serve.server.http.routes_predict.decode", fail)
    server = serve_app()
    answer = server.client.post("/predict", content=b"x", headers={"x-request-id": "abc-1"})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == PROBLEM
    assert "secret" not in answer.text
    assert "/srv/secret is gone" in caplog.text
    assert "request abc-1 to /predict failed" in caplog.text
    assert server.client.get("/healthz").status_code == 200


def test_an_answer_carries_the_id_of_its_request(serve_app: ServeApp) -> None:
    client = serve_app().client
    given = client.get("/healthz", headers={"x-request-id": "order-7.b"})
    assert given.headers["x-request-id"] == "order-7.b"
    made = {client.get("/healthz", headers={"x-request-id": "a b"}).headers["x-request-id"] for _ in "ab"}
    assert len(made) == 2
    assert all(len(each) == 16 for each in made)


def test_the_page_is_served_from_memory_under_a_strict_policy(serve_app: ServeApp) -> None:
    client = serve_app().client
    index = client.get("/")
    assert index.content == (FOLDER / "index.html").read_bytes()
    assert index.headers["content-type"].startswith("text/html")
    policy = index.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert index.headers["x-content-type-options"] == "nosniff"
    script = client.get("/app.js")
    assert script.headers["content-type"].startswith("text/javascript")
    again = client.get("/app.js", headers={"if-none-match": script.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/../settings.py",
        "/%2e%2e/settings.py",
        "/..%2fsettings.py",
        "/page/../settings.py",
        "//etc/passwd",
        "/etc/passwd",
        "/models/..%2f..%2fREADME.md/card",
        "/models/../card",
        "/v2/models/..%2f..%2fetc%2fpasswd",
        "/predict?model=../../etc/passwd",
    ],
)
def test_no_path_of_a_request_reaches_the_file_system(serve_app: ServeApp, path: str) -> None:
    server = serve_app()
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("POST" if "predict" in path else "GET", path)  # as it is: httpx2 would tidy it up
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    assert answer.status == 404, body
    assert "root:" not in body
    assert "ServerSettings" not in body


def test_a_folder_without_a_page_has_no_files(tmp_path: Path) -> None:
    assert page_files(tmp_path / "none") == {}


def test_the_app_works_inside_another_one(serve_app: ServeApp) -> None:
    def mount(app: FastAPI) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            async with app.router.lifespan_context(app):
                yield

        outer = FastAPI(lifespan=lifespan)
        outer.mount("/zoo", app)
        return outer

    client = serve_app(wrap=mount, api_key="k").client
    assert client.get("/zoo/healthz").status_code == 200
    assert client.get("/zoo/models").status_code == 401
    key = {"x-api-key": "k"}
    assert client.get("/zoo/models", headers=key).status_code == 200
    assert "error" in client.get("/zoo/v2/models/none", headers=key).json()


def test_a_client_that_goes_leaves_no_error_in_an_app_around_it(
    serve_app: ServeApp, caplog: pytest.LogCaptureFixture
) -> None:
    def wrapped(app: FastAPI) -> Any:
        async def passed(request: Any, call_next: Any) -> Any:
            return await call_next(request)

        return BaseHTTPMiddleware(app, passed)

    server = serve_app(wrap=wrapped)
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\nabc")
        time.sleep(0.1)
    for _ in range(100):
        if 'status="499"' in (figures := server.client.get("/metrics").text):
            break
        time.sleep(0.05)
    assert 'route="/predict",status="499"} 1.0' in figures
    assert "No response returned" not in caplog.text


def test_models_are_stopped_with_the_server(serve_app: ServeApp) -> None:
    server = serve_app()
    model = server.models["stand-in"]
    assert model.ready
    server.stop()
    assert not model.ready
    assert not server.thread.is_alive()


def test_each_request_is_one_line_of_json_without_key_or_image(
    serve_app: ServeApp, json_log: Callable[[], list[dict[str, Any]]]
) -> None:
    client = serve_app(api_key="hush-hush").client
    headers = {"x-request-id": "id-1", "x-api-key": "hush-hush"}
    answer = client.post("/predict?output=mask", content=b"not an image", headers=headers)
    client.get("/models", headers={"x-api-key": "wrong"})
    client.post("/predict?hush=hush-hush", content=b"", headers=headers)
    client.get("/healthz")  # by now the lines before are written
    first, second, *_ = json_log()
    assert isinstance(first.pop("time"), str)
    assert 0 < first.pop("ms") < 10_000
    assert first == {
        "level": "info",
        "logger": "zoo.serve.access",
        "message": "request",
        "id": "id-1",
        "route": "/predict",
        "model": "stand-in",
        "status": 400,
        "bytes_in": 12,
        "bytes_out": len(answer.content),
    }
    assert (second["status"], second["route"]) == (401, "other")


@pytest.fixture
def json_log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """Return a function that returns the lines of the log of requests."""
    caplog.set_level(logging.INFO, "zoo.serve.access")

    def lines() -> list[dict[str, Any]]:
        records = [record for record in caplog.records if record.name == "zoo.serve.access"]
        texts = [JsonFormatter().format(record) for record in records]
        assert not any("\n" in text or "hush" in text for text in texts)
        return [json.loads(text) for text in texts]

    return lines


def test_a_traceback_is_a_field_of_its_line(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("on\ntwo lines")
    except ValueError:
        logging.getLogger("zoo.test").exception("it failed: %s", "why")
    text = JsonFormatter().format(caplog.records[-1])
    assert "\n" not in text
    line = json.loads(text)
    assert (line["message"], line["level"]) == ("it failed: why", "error")
    assert "ValueError: on\ntwo lines" in line["exception"]


@pytest.mark.parametrize(("json_logs", "level"), [(True, "INFO"), (False, "WARNING")])
def test_requests_are_logged_only_as_json(json_logs: bool, level: str) -> None:
    assert log_config(json_logs=json_logs)["loggers"]["zoo"]["level"] == level
