"""The Open Inference Protocol, REST version 2, as `tritonclient.http` speaks it."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from zoo.predictors.remote.oip import JSON_LENGTH
from zoo.serve.server.core import oip
from zoo.serve.server.core.answer import Decoded
from zoo.serve.server.core.errors import BadRequestError
from zoo.serve.server.core.unknown import computed, with_unknown
from zoo.serve.server.http.compression import Encoding, compress
from zoo.serve.server.http.problems import responses
from zoo.serve.server.http.request import respond, trace_of
from zoo.serve.server.http.schemas import OipLive, OipModelReady, OipReady, OipServer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from enum import Enum

    from fastapi import FastAPI

    from zoo.serve.server.core.context import Context
    from zoo.serve.server.core.model import Model
    from zoo.serve.server.core.runner import Values

BINARY: dict[str, Any] = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}

BODY: dict[str, Any] = {
    "required": True,
    "description": "JSON; or JSON and the binary tensor after it, the length of the JSON in the header "
    f"`{JSON_LENGTH}`. As it is, or compressed by gzip or deflate.",
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
        "application/octet-stream": BINARY,
    },
}

MASKS: dict[str, Any] = {
    "model": oip.InferAnswer,
    "description": "JSON; or JSON and the binary tensor after it.",
    "content": {"application/octet-stream": BINARY},
}

TAGS: list[str | Enum] = ["Open Inference Protocol"]

ANYWHERE = responses(400, 401, 403, 413, 500, oip=True)
NAMES = ANYWHERE | responses(404, 422, oip=True)
ANSWERS = {**NAMES, **responses(408, 415, 503, 504, oip=True), 200: MASKS}


def add_oip_routes(app: FastAPI, context: Context) -> None:
    """Add the routes under `/v2`."""

    @app.get("/v2", tags=TAGS, summary="Describe the server", responses=ANYWHERE)
    async def server() -> OipServer:
        return OipServer(name="zoo", version=version_of("semiseg-zoo"), extensions=["binary_tensor_data"])

    @app.get("/v2/health/live", tags=TAGS, summary="The process is alive", responses=ANYWHERE)
    async def live() -> OipLive:
        return OipLive(live=True)

    @app.get(
        "/v2/health/ready",
        tags=TAGS,
        summary="Every model has just answered a real inference",
        responses=ANYWHERE | responses(503, oip=True),
    )
    async def ready() -> OipReady:
        await context.readiness.check()
        return OipReady(ready=True)

    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        _add_model(app, path, context)


def _add_model(app: FastAPI, path: str, context: Context) -> None:
    """Add the routes of models; without a version in the path they take the one that there is."""

    @app.get(path, tags=TAGS, summary="Describe a model", responses=NAMES)
    async def metadata(model: str, version: str | None = None) -> oip.ModelMetadata:
        return oip.metadata(context.model(model, version))

    @app.get(
        f"{path}/ready", tags=TAGS, summary="A model is ready", responses=NAMES | responses(503, oip=True)
    )
    async def model_ready(model: str, version: str | None = None) -> OipModelReady:
        served = context.model(model, version)
        await context.readiness.check_started(served)
        return OipModelReady(name=served.name, ready=True)

    @app.post(
        f"{path}/infer",
        tags=TAGS,
        summary="Predict the masks of images of the network's size",
        response_class=Response,
        responses=ANSWERS,
        openapi_extra={"requestBody": BODY},
    )
    async def infer(request: Request, model: str, version: str | None = None) -> Response:
        served = context.model(model, version)
        trace_of(request.scope).model = served.name
        return await respond(context, served, request, Request.body, decoder(served, request))


def decoder(model: Model, request: Request) -> Callable[[bytes], Decoded[Response]]:
    """Return the function that decodes the body of a request with these headers.

    Raises:
        BadRequestError: wrong headers.
    """
    text = request.headers.get(JSON_LENGTH)
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 12):
        raise BadRequestError(f"{JSON_LENGTH} is {text[:30]!r}, expected the bytes of JSON: count them")
    accepted = _accepted(request)

    def decoded(body: bytes) -> Decoded[Response]:
        asked = oip.parse(
            body, None if text is None else int(text), model.outputs, model.preprocessing.format
        )

        outputs = computed(model, tuple(asked.binary), asked.unknown_below)

        def encoded(found: Sequence[Values]) -> Response:
            return _response(asked, with_unknown(found, asked.unknown_below), model, accepted)

        return Decoded(asked.images, outputs, encoded, asked.images.nbytes)

    return decoded


def _accepted(request: Request) -> Encoding | None:
    """Return the compression that a client takes, gzip first; None for no compression."""
    for part in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = part.partition(";")
        if name.strip() in get_args(Encoding) and weight.replace(" ", "") not in ("q=0", "q=0.0"):
            accepted: Encoding = name.strip()  # type: ignore[assignment]
            return accepted
    return None


def _response(asked: oip.Asked, found: Sequence[Values], model: Model, encoding: Encoding | None) -> Response:
    outputs = {name: np.stack([values[name] for values in found]) for name in asked.binary}
    rendered = oip.render(asked, outputs, model.name, model.version)
    headers = {"Vary": "Accept-Encoding"}
    media_type = "application/json"
    if rendered.json_length is not None:
        headers[JSON_LENGTH] = str(rendered.json_length)
        media_type = "application/octet-stream"
    content = rendered.body
    if encoding is not None:
        headers["Content-Encoding"] = encoding
        content = compress(content, encoding)
    return Response(content, headers=headers, media_type=media_type)
