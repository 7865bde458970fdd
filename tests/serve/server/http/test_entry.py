"""What is checked or changed before a route: parameter names, HEAD, CORS, path prefixes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.routing import Mount

from zoo.predictors.load import load_predictor
from zoo.serve.server.core.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.serve.server.conftest import Pictures, ServeApp, StandIn

PAGE = "https://maps.example.com"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("modle=b", "got parameter 'modle', expected format, model, output, unknown_below: use model"),
        ("fromat=json", "use format"),
        ("Format=json", "use format"),
        ("name=b", "got parameter 'name', expected format, model, output, unknown_below: leave it out"),
        ("format=json&outptu=mask", "use output"),
        ("model=stand-in&model=other", "got parameter model more than once"),
        ("=x", "got parameter ''"),
    ],
)
def test_a_misspelled_parameter_is_refused_with_the_nearest_name(
    serve_app: ServeApp, pictures: Pictures, query: str, words: str
) -> None:
    answer = serve_app().client.post(f"/predict?{query}", content=pictures.file())
    assert answer.status_code == 400
    assert words in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/readyz", "/healthz", "/models", "/metrics", "/v2", "/v2/health/ready"])
def test_routes_without_parameters_take_none(serve_app: ServeApp, path: str) -> None:
    answer = serve_app().client.get(path, params={"model": "stand-in"})
    assert answer.status_code == 400
    assert "got parameter 'model', expected none: leave it out" in answer.json()["detail"]
    assert ("error" in answer.json()) == path.startswith("/v2")


def test_a_parameter_in_a_form_is_refused(serve_app: ServeApp, pictures: Pictures) -> None:
    answer = serve_app().client.post("/predict", files={"image": pictures.file()}, data={"model": "other"})
    assert answer.status_code == 400
    assert "got form field 'model', expected one file" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v2/health/ready", "/models", "/", "/docs"])
def test_head_is_answered_as_get_without_a_body(serve_app: ServeApp, path: str) -> None:
    client = serve_app().client
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(get.content))
    assert client.get("/healthz").json() == {"alive": True}  # on the same connection


def test_head_of_a_model_that_fails_is_503(serve_app: ServeApp, stand_in: StandIn) -> None:
    predictor: Any = stand_in(base_s=0, image_s=0)
    client = serve_app({"m": predictor}).client
    predictor.broken = True
    answer = client.head("/readyz")
    assert (answer.status_code, answer.content) == (503, b"")


def test_a_page_of_a_named_origin_may_use_the_server(serve_app: ServeApp, pictures: Pictures) -> None:
    client = serve_app(cors=(PAGE,)).client
    answer = client.post("/predict", content=pictures.file(), headers={"origin": PAGE})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "Server-Timing" in answer.headers["access-control-expose-headers"]
    other = client.get("/models", headers={"origin": "https://other.example.com"})
    assert other.status_code == 403
    assert "access-control-allow-origin" not in other.headers
    assert "--cors ORIGIN" in other.json()["detail"]


def test_a_preflight_needs_no_key_and_errors_can_be_read_by_the_page(serve_app: ServeApp) -> None:
    client = serve_app(cors=(PAGE, "http://localhost:3000"), api_key="k").client
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    preflight = client.options("/predict", headers={"origin": PAGE, **asks})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    refused = client.options("/predict", headers={"origin": "https://other.example.com", **asks})
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers
    keyless = client.post("/predict", headers={"origin": "http://localhost:3000"})
    assert keyless.status_code == 401
    assert keyless.headers["access-control-allow-origin"] == "http://localhost:3000"


def test_any_origin_may_be_allowed_and_none_is_by_default(serve_app: ServeApp) -> None:
    answer = serve_app(cors=("*",)).client.get("/models", headers={"origin": "https://other.example.com"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
    local = serve_app().client.get("/models", headers={"origin": "http://localhost:3000"})
    assert "access-control-allow-origin" not in local.headers


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://a.example/", "https://a.example"),
        ("HTTPS://A.Example:443", "https://a.example"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://localhost:80", "http://localhost"),
        ("*", "*"),
    ],
)
def test_an_origin_is_compared_as_browsers_send_it(text: str, origin: str) -> None:
    assert ServerSettings(cors=(text,)).cors == (origin,)


@pytest.mark.parametrize(
    "text",
    [
        "a.example",
        "https://a.example/page",
        "ftp://a.example",
        "https://",
        "null",
        "http://a:x",
        "",
        "https://u@a",
    ],
)
def test_another_text_is_no_origin(text: str) -> None:
    with pytest.raises(ValidationError, match="expected 'https://host'"):
        ServerSettings(cors=(text,))


@pytest.mark.parametrize("prefix", ["", "/seg", "/a/b"])
def test_a_prefix_that_a_proxy_leaves_is_accepted_and_so_are_paths_without_it(
    serve_app: ServeApp, pictures: Pictures, prefix: str
) -> None:
    server = serve_app(root_path="/seg" if prefix == "" else prefix, api_key="k")
    client, key = server.client, {"x-api-key": "k"}
    assert client.get(f"{prefix}/healthz").status_code == 200
    assert client.get(f"{prefix}/models").status_code == 401
    assert client.post(f"{prefix}/predict", content=pictures.file(), headers=key).status_code == 200
    assert client.get(f"{prefix}/docs", headers=key).status_code == 200
    assert client.get(f"{prefix}/app.js").status_code == 200
    assert client.get(f"{prefix}x/healthz").status_code == 401
    if prefix:
        page = client.get(prefix)
        assert (page.status_code, page.headers["location"]) == (307, f"{prefix}/")
    document = client.get(f"{prefix}/openapi.json", headers=key).json()
    assert document["servers"] == [{"url": "."}]


@pytest.mark.parametrize("text", ["seg", "/a b", "/a?b", "/a//b", "//host", "/../x"])
def test_another_text_is_no_prefix(text: str) -> None:
    with pytest.raises(ValidationError, match="expected one like"):
        ServerSettings(root_path=text)


def mounted(outer: type[FastAPI] | type[Starlette]) -> Callable[[FastAPI], Any]:
    return lambda app: outer(routes=[Mount("/seg", app)])


@pytest.mark.parametrize("outer", [FastAPI, Starlette])
def test_an_app_mounted_without_its_lifespan_starts_with_the_first_request(
    serve_app: ServeApp, pictures: Pictures, outer: type[FastAPI] | type[Starlette]
) -> None:
    server = serve_app(wrap=mounted(outer))
    assert not server.models["stand-in"].ready
    answer = server.client.post("/seg/predict", content=pictures.file())
    assert answer.status_code == 200
    assert server.client.get("/seg/readyz").json() == {"ready": True, "models": ["stand-in"]}
    assert "zoo_model_info" in server.client.get("/seg/metrics").text
    assert server.client.get("/seg/docs").status_code == 200


@pytest.mark.parametrize("path", ["/seg/readyz", "/seg/v2/health/ready", "/seg/v2/models/stand-in/ready"])
def test_a_probe_starts_a_mounted_app(serve_app: ServeApp, path: str) -> None:
    assert serve_app(wrap=mounted(FastAPI)).client.get(path).status_code == 200


def test_a_mounted_app_whose_model_cannot_start_says_so_and_tries_again(
    serve_app: ServeApp, stand_in: StandIn
) -> None:
    predictor: Any = stand_in(base_s=0, image_s=0)
    predictor.broken = True
    client = serve_app({"m": predictor}, wrap=mounted(FastAPI)).client
    answer = client.get("/seg/readyz")
    assert (answer.status_code, answer.json()["detail"]) == (503, "m cannot be started: see the server's log")
    assert client.post("/seg/predict", content=b"x").status_code == 500
    predictor.broken = False
    assert client.post("/seg/predict", content=b"x").status_code == 400


@pytest.mark.parametrize("where", ["", "/stand-in", "/second"])
def test_a_server_behind_a_prefix_is_a_model_for_python(
    serve_app: ServeApp, pictures: Pictures, stand_in: StandIn, where: str
) -> None:
    predictors = {name: stand_in(base_s=0, image_s=0) for name in ("stand-in", "second")}
    server = serve_app(predictors, wrap=mounted(FastAPI))
    url = f"http://127.0.0.1:{server.port}/seg{where}"
    model = load_predictor(url)
    assert model.description.startswith(where.strip("/") or "stand-in")
    image = np.asarray(pictures.image())
    assert model.predict(image).shape == (32, 48)
    assert model.infer(image[None])["mask"].shape == (1, 32, 48)
