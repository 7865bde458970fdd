"""The OpenAPI document is complete, and the server does what it says whatever is sent."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

if TYPE_CHECKING:
    from tests.serve.server.conftest import Running, ServeApp

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]
EXAMPLES = 12

KNOWN = {"model": "stand-in", "name": "stand-in", "version": "1"}
"""Names in paths that there are."""


@pytest.fixture
def server(serve_app: ServeApp) -> Running:
    return serve_app()


def document(server: Running) -> dict[str, Any]:
    result: dict[str, Any] = server.client.get("/openapi.json").json()
    return result


def test_every_route_is_in_the_document_with_its_errors(server: Running) -> None:
    paths = document(server)["paths"]
    assert set(paths) == {
        "/predict",
        "/models",
        "/models/{name}/card",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{model}",
        "/v2/models/{model}/ready",
        "/v2/models/{model}/infer",
        "/v2/models/{model}/versions/{version}",
        "/v2/models/{model}/versions/{version}/ready",
        "/v2/models/{model}/versions/{version}/infer",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    predict = paths["/predict"]["post"]
    answers = predict["responses"]
    assert set(answers) == {
        "200", "400", "401", "403", "404", "408", "413", "415", "422", "500", "503", "504",
    }  # fmt: skip
    assert all(
        set(answer["content"]) == {"application/problem+json"}
        for status, answer in answers.items()
        if status != "200"
    )
    assert set(answers["200"]["content"]) == {"image/png", "application/x-npy", "application/json"}
    assert set(predict["requestBody"]["content"]) == {
        "image/*",
        "application/octet-stream",
        "multipart/form-data",
    }
    assert {each["name"] for each in predict["parameters"]} == {"format", "model", "output", "unknown_below"}


def test_every_reference_leads_somewhere(server: Running) -> None:
    whole = document(server)

    def check(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                assert node["$ref"].removeprefix("#/components/schemas/") in whole["components"]["schemas"]
            for value in node.values():
                check(value)
        elif isinstance(node, list):
            for value in node:
                check(value)

    check(whole)


def test_the_key_is_in_the_document(server: Running) -> None:
    schemes = document(server)["components"]["securitySchemes"]
    assert {scheme["type"] for scheme in schemes.values()} == {"http", "apiKey"}


def test_the_documentation_is_a_page_that_asks_no_other_host(server: Running) -> None:
    page = server.client.get("/docs").text
    addresses = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert len(addresses) == 3
    for address in addresses:
        assert not address.startswith(("/", "http"))  # holds behind any prefix
        assert len(server.client.get(f"/{address}").content) > 500


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "expected"),
    [(GenerationMode.POSITIVE, {200, 400}), (GenerationMode.NEGATIVE, {400, 404, 422})],
)
def test_nothing_that_is_sent_is_answered_in_another_way_than_the_document_says(
    server: Running, mode: GenerationMode, expected: set[int]
) -> None:
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    statuses: set[int] = set()
    for result in schema.get_all_operations():
        statuses |= send(result.ok(), mode)
    assert expected <= statuses


def send(operation: schemathesis.APIOperation, mode: GenerationMode) -> set[int]:
    """Return the statuses that some requests get, which the document allows, or which it does not."""
    statuses = set()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        if mode is GenerationMode.POSITIVE:  # random names are 404 only
            case.path_parameters |= {name: KNOWN[name] for name in case.path_parameters or {}}
            case.query.pop("model", None)
        statuses.add(case.call_and_validate(checks=CHECKS).status_code)

    with suppress(Unsatisfiable):  # nothing can be wrong with a name in a path
        check()
    return statuses
