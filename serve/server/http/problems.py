"""Error responses: `application/problem+json` (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field
from starlette.responses import Response

from zoo.serve.server.core.errors import fault_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    from zoo.errors import ZooError


PROBLEM_TYPE = "application/problem+json"

OIP_PREFIX = "/v2"
"""Path prefix of the Open Inference Protocol, whose clients read the member `error`."""


class Problem(BaseModel):
    """Problem of a failed request."""

    type: str = Field("about:blank", description="The status identifies the kind.")
    title: str = Field(description="Name of the status.", examples=["Content Too Large"])
    status: int = Field(description="HTTP status.", examples=[413])
    detail: str = Field(
        description="One line: what was got, what was expected, what to do.",
        examples=["got a body of 52428800 bytes, expected at most 32000000: send a smaller image"],
    )


class OipProblem(Problem):
    """Problem for clients of the Open Inference Protocol."""

    error: str = Field(description="The detail, in the member that the Open Inference Protocol defines.")


def problem(
    status: int, detail: str, *, path: str = "", headers: Mapping[str, str] | None = None
) -> Response:
    """Return the response to a failed request.

    Args:
        status: HTTP status.
        detail: one line without paths of this machine.
        path: path of the request; below `/v2` the response also has a member `error`.
        headers: additional headers.
    """
    fields: dict[str, Any] = {"title": _title(status), "status": status, "detail": detail}
    body = OipProblem(**fields, error=detail) if _is_oip(path) else Problem(**fields)
    return Response(body.model_dump_json(), status, headers, media_type=PROBLEM_TYPE)


def problem_of(error: ZooError, path: str = "") -> Response:
    """Return the response to a request that failed with this error."""
    fault = fault_of(error)
    wait = fault.retry_after_s
    headers = None if wait is None else {"Retry-After": str(wait)}
    return problem(fault.status, fault.detail, path=path, headers=headers)


def problem_of_http(error: HTTPException, path: str, method: str) -> Response:
    """Return the response to requests that the router refused: unknown path, or wrong method."""
    known = {
        404: f"there is nothing at {path[:100]!r}: /docs lists all paths",
        405: f"got {method[:20]!r}, which {path[:100]!r} does not accept: see the header Allow",
    }
    detail = known.get(error.status_code, str(error.detail))
    return problem(error.status_code, detail, path=path, headers=error.headers)


def problem_of_parameters(error: RequestValidationError, path: str) -> Response:
    """Return the response to a request with invalid parameters, about the first of them."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    got = f", got {str(first['input'])[:50]!r}" if first.get("input") is not None else ""
    return problem(422, f"parameter {name}: {first['msg']}{got}", path=path)


def responses(*statuses: int, oip: bool = False) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route for the OpenAPI document."""
    model = OipProblem if oip else Problem
    return {
        status: {
            "description": _title(status),
            "content": {PROBLEM_TYPE: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}},
        }
        for status in statuses
    }


def _title(status: int) -> str:
    return HTTPStatus(status).phrase


def _is_oip(path: str) -> bool:
    return path == OIP_PREFIX or path.startswith(f"{OIP_PREFIX}/")
