"""`POST /predict`: an image in, its mask out; and what there is to know of the models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query
from starlette.requests import Request  # noqa: TC002 -- FastAPI evaluates annotations
from starlette.responses import Response

from zoo.image_format import displayed
from zoo.predictors import outputs
from zoo.predictors.outputs import OUTPUTS, Format, mask_dtype, resize_output
from zoo.serve.server.core.answer import Decoded
from zoo.serve.server.core.errors import BadRequestError, UnknownNameError
from zoo.serve.server.core.unknown import DESCRIPTION, computed, with_unknown
from zoo.serve.server.http.decode import decode, image_bytes
from zoo.serve.server.http.encode import MEDIA_TYPES, encoder, hex_color
from zoo.serve.server.http.problems import responses
from zoo.serve.server.http.request import respond, trace_of
from zoo.serve.server.http.schemas import ClassInfo, MaskAnswer, ModelInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastapi import FastAPI

    from zoo.serve.server.core.context import Context
    from zoo.serve.server.core.model import Model
    from zoo.serve.server.core.runner import Values
    from zoo.serve.server.core.settings import ServerSettings

BINARY = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}

BODY: dict[str, Any] = {
    "required": True,
    "description": "JPEG, PNG, WebP, BMP, TIFF or GIF (of an animation the first frame), of any size: the "
    "file as it is, under any content type or none, or as the one file of a form.",
    "content": {
        "image/*": BINARY,
        "application/octet-stream": BINARY,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "string", "format": "binary"}},
            }
        },
    },
}

MASK: dict[str, Any] = {
    "model": MaskAnswer,
    "description": "The mask, of the image's size. Header `Server-Timing` tells the milliseconds of each "
    "part, `X-Zoo-Model` the model.",
    "content": {
        "image/png": {"schema": {"type": "string", "contentMediaType": "image/png"}},
        "application/x-npy": {"schema": {"type": "string", "contentMediaType": "application/x-npy"}},
    },
}


ANSWERS = {**responses(400, 404, 408, 415, 422, 503, 504), 200: MASK}

CARD = {
    **responses(404, 422),
    200: {"description": "Markdown.", "content": {"text/markdown": {"schema": {"type": "string"}}}},
}


def add_predict_routes(app: FastAPI, context: Context) -> None:
    """Add the routes of prediction.

    Args:
        app: app to extend, without a router, which would add a route lookup to each request.
        context: context of the app.
    """

    @app.post(
        "/predict",
        tags=["predict"],
        summary="Predict the mask of an image",
        response_class=Response,
        responses=ANSWERS,
        openapi_extra={"requestBody": BODY},
    )
    async def predict(
        request: Request,
        format: Annotated[Format, Query(description="`png`: class numbers, indexed.")] = "png",
        model: Annotated[str | None, Query(description="Name; the first if left out.")] = None,
        output: Annotated[
            str,
            Query(
                description="One of the model's `outputs`; all but the mask as `png` or `npy`. `mask` and "
                "others, joined by +, as `json`."
            ),
        ] = outputs.MASK,
        unknown_below: Annotated[float | None, Query(ge=0, le=1, description=DESCRIPTION)] = None,
    ) -> Response:
        served = context.model(model)
        trace_of(request.scope).model = served.name
        names = output_names(served, output, format)
        decode = decoder(context, served, format, names, unknown_below)
        return await respond(context, served, request, image_bytes, decode)

    @app.get("/models", tags=["predict"], summary="List the models")
    async def models() -> list[ModelInfo]:
        return [model_info(model, context.settings) for model in context.models.values()]

    @app.get(
        "/models/{name}/card",
        tags=["predict"],
        summary="Read the card of a model",
        response_class=Response,
        responses=CARD,
    )
    async def card(name: str) -> Response:
        served = context.model(name)
        if served.card is None:
            raise UnknownNameError(f"{served.name} has no card, expected a bundle with README.md: serve that")
        return Response(served.card, media_type="text/markdown")


def output_names(model: Model, output: str, format_: Format) -> tuple[str, ...]:
    """Return the names of the requested outputs, which the model has in the format.

    Args:
        model: model of the request.
        output: names, joined by + if there are several.
        format_: format of the response.

    Raises:
        BadRequestError: an output or format that the model does not have.
    """
    names = tuple(output.replace(" ", "+").split("+"))  # + is a space in queries
    for name in names:
        if name not in model.outputs:
            raise BadRequestError(
                f"got output {output[:50]!r}, expected {' or '.join(model.outputs)}: {model.name} gives no "
                f"others"
            )
    if len(names) > 1:
        if format_ != "json" or names[0] != outputs.MASK or len(set(names)) < len(names):
            raise BadRequestError(
                f"got format {format_!r} for output {output[:50]!r}, expected format 'json' and each output "
                f"once, the mask first, for several: ask for that, or for one output"
            )
        return names
    formats = OUTPUTS[output].formats
    if format_ not in formats:
        raise BadRequestError(
            f"got format {format_!r} for output {output!r}, expected {' or '.join(formats)}: ask for that"
        )
    return names


def decoder(
    context: Context, model: Model, format_: Format, names: tuple[str, ...], unknown_below: float | None
) -> Callable[[bytes], Decoded[Response]]:
    """Return the function that decodes the image of a request for outputs.

    Raises:
        BadRequestError: `unknown_below` without a mask, or of a model that has no reliability.
    """
    encode = encoder(format_, model.classes, model.name, model.version, names)
    needed = computed(model, names, unknown_below)
    format_of_images = model.preprocessing.format

    def decoded(body: bytes) -> Decoded[Response]:
        image = decode(body, context.settings.max_pixels, format_of_images)

        def encoded(found: Sequence[Values]) -> Response:
            [final] = with_unknown(found, unknown_below)
            size = image.shape[0], image.shape[1]
            values = [resize_output(name, final[name], size) for name in names]
            shown = displayed(image, format_of_images) if format_ == "overlay" else image
            return Response(encode(shown, *values), media_type=MEDIA_TYPES[format_])

        return Decoded(model.resized(image)[None], needed, encoded, image.nbytes)

    return decoded


def model_info(model: Model, settings: ServerSettings) -> ModelInfo:
    """Return what `/models` says of a model."""
    pre, classes = model.preprocessing, model.classes
    return ModelInfo(
        name=model.name,
        version=model.version,
        fingerprint=model.fingerprint,
        backend=model.backend,
        description=model.description,
        reason=model.reason,
        imgsz=pre.imgsz,
        resize=pre.resize if settings.tile is None else "none",
        tile=settings.tile,
        overlap=None if settings.tile is None else settings.overlap,
        timeout=settings.timeout,
        mean=pre.mean,
        std=pre.std,
        channels=pre.format.channels,
        dtype=pre.format.dtype,
        ranges=pre.format.ranges,
        classes=[
            ClassInfo(label=label, name=name, color=hex_color(color))
            for label, (name, color) in enumerate(zip(classes.names, classes.palette, strict=True))
        ],
        output=mask_dtype(len(classes)),
        outputs=list(model.outputs),
        max_batch=model.max_batch,
        ready=model.ready,
    )
