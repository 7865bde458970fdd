"""The door of a server on Ray, without Ray: replicas that answer, die, are full or never answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from zoo.serve.server.core.settings import ServerSettings
from zoo.serve.server.ray.proxy import TRIES, AccessProxy, Answer, Request

exceptions = pytest.importorskip("ray.exceptions")
serve_exceptions = pytest.importorskip("ray.serve.exceptions")

if TYPE_CHECKING:
    from collections.abc import Generator

DIED = exceptions.RayActorError()
FULL = serve_exceptions.BackPressureError(num_queued_requests=9, max_queued_requests=8)


class Response:
    """What a handle returns: awaited once, or cancelled."""

    def __init__(self, outcome: Answer | Exception | None) -> None:
        self.outcome = outcome
        self.cancelled = False

    def __await__(self) -> Generator[Any, None, Answer]:
        if self.outcome is None:
            yield from asyncio.sleep(60).__await__()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        assert self.outcome is not None
        return self.outcome

    def cancel(self) -> None:
        self.cancelled = True


class Replicas:
    """Stands for a handle of Ray Serve; each request has the next outcome, None is no answer."""

    def __init__(self, *outcomes: Answer | Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.requests: list[Request] = []
        self.responses: list[Response] = []
        self.answer = self

    def remote(self, request: Request) -> Response:
        self.requests.append(request)
        self.responses.append(Response(self.outcomes.pop(0)))
        return self.responses[-1]


OK = Answer(200, [(b"content-type", b"text/plain"), (b"x-zoo-model", b"eln")], b"mask")


def client_of(replicas: Replicas, **settings: Any) -> TestClient:
    door: Any = AccessProxy(ServerSettings(**settings), replicas)  # type: ignore[arg-type]
    return TestClient(door.__serve_build_asgi_app__(), "http://localhost", client=("127.0.0.1", 1))


def test_a_request_is_passed_on_with_its_query_headers_and_body() -> None:
    replicas = Replicas(OK)
    answer = client_of(replicas).post("/predict?format=npy", content=b"image", headers={"X-Request-ID": "7"})
    assert (answer.status_code, answer.content, answer.headers["x-zoo-model"]) == (200, b"mask", "eln")
    (request,) = replicas.requests
    assert request.body == b"image"
    assert (request.scope["method"], request.scope["path"]) == ("POST", "/predict")
    assert request.scope["query_string"] == b"format=npy"
    assert (b"x-request-id", b"7") in request.scope["headers"]


def test_another_replica_is_asked_when_one_dies() -> None:
    replicas = Replicas(DIED, DIED, OK)
    assert client_of(replicas).post("/predict", content=b"image").content == b"mask"
    assert [request.body for request in replicas.requests] == [b"image"] * 3


def test_a_request_that_kills_replicas_is_given_up() -> None:
    replicas = Replicas(*[DIED] * TRIES)
    answer = client_of(replicas).post("/predict", content=b"image")
    assert answer.status_code == 503
    assert "died during this request" in answer.json()["detail"]
    assert "retry-after" in answer.headers


def test_where_too_many_wait_the_answer_is_503_with_retry_after() -> None:
    answer = client_of(Replicas(FULL)).post("/predict", content=b"image")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_replica_that_does_not_answer_is_told_to_stop() -> None:
    replicas = Replicas(None)
    answer = client_of(replicas, timeout=0.5).post("/predict", content=b"image")
    assert answer.status_code == 504
    assert replicas.responses[0].cancelled


def test_a_body_that_is_too_large_is_refused_at_the_door() -> None:
    replicas = Replicas()
    answer = client_of(replicas, max_body_mb=0.001).post("/predict", content=bytes(2000))
    assert answer.status_code == 413
    assert replicas.requests == []


def test_who_has_no_key_is_refused_at_the_door_but_not_probes_and_the_page() -> None:
    replicas = Replicas(OK, OK, OK)
    client = client_of(replicas, api_key=SecretStr("open sesame"))
    assert client.post("/predict", content=b"image").status_code == 401
    for path in ("/", "/readyz"):
        assert client.get(path).status_code == 200
    right = client.post("/predict", content=b"image", headers={"X-API-Key": "open sesame"})
    assert right.status_code == 200
    assert len(replicas.requests) == 3


def test_other_origins_prefixes_and_head_are_handled_at_the_door() -> None:
    page = {"origin": "https://maps.example.com"}
    allowed = Answer(200, [*OK.headers, (b"access-control-allow-origin", page["origin"].encode())], OK.body)
    replicas = Replicas(allowed, OK)
    client = client_of(replicas, cors=(page["origin"],), root_path="/seg", api_key=SecretStr("k"))
    preflight = client.options("/seg/predict", headers=page | {"access-control-request-method": "POST"})
    assert (preflight.status_code, replicas.requests) == (200, [])
    answer = client.post("/seg/predict", content=b"image", headers=page | {"x-api-key": "k"})
    assert answer.headers.get_list("access-control-allow-origin") == [page["origin"]]
    assert replicas.requests[0].scope["root_path"] == "/seg"
    head = client.head("/seg/healthz")
    assert (head.status_code, head.content, replicas.requests[1].scope["method"]) == (200, b"", "GET")
