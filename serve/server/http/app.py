"""ASGI app of `zoo serve`, which any ASGI server can run and any ASGI app can mount."""

from __future__ import annotations

from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from zoo.errors import ZooError
from zoo.serve.server.core.context import Context
from zoo.serve.server.core.oip import InferRequest
from zoo.serve.server.http import problems
from zoo.serve.server.http.compression import Inflate
from zoo.serve.server.http.entry import Entry
from zoo.serve.server.http.guards import Access, Body, check_parameters, cors_options
from zoo.serve.server.http.observe import Observe
from zoo.serve.server.http.request import route_path
from zoo.serve.server.http.routes_health import add_health_routes
from zoo.serve.server.http.routes_oip import add_oip_routes
from zoo.serve.server.http.routes_page import add_docs_routes, add_page_routes, page_files
from zoo.serve.server.http.routes_predict import add_predict_routes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from starlette.requests import Request

    from zoo.serve.server.core.model import Model
    from zoo.serve.server.core.settings import ServerSettings

DESCRIPTION = "Segmentation masks of images: `POST /predict`, or the Open Inference Protocol under `/v2`."

ANYWHERE = (400, 401, 403, 413, 500)
"""Statuses that any route may return."""

SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
"""Security schemes of a server with a key."""

ALWAYS_OPEN = ("/healthz", "/readyz")
"""Paths that need no key, for probes; the page's paths need none either."""


def create_app(models: Sequence[Model], settings: ServerSettings) -> FastAPI:
    """Return an ASGI app that starts the models, serves them and stops them.

    The models start with its lifespan, or with the first request if an app that mounts it does not run that.

    Args:
        models: at least one model, with unique names; requests that name none get the first.
        settings: settings of the server.
    """
    context, files = Context(models, settings), page_files()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await context.start()
            yield
        finally:
            await context.stop()

    app = FastAPI(
        title="zoo",
        version=version("semiseg-zoo"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        root_path_in_servers=False,
        servers=[{"url": "."}],  # relative to the document, behind any prefix
        dependencies=[Depends(check_parameters)],
        responses=problems.responses(*ANYWHERE),
        generate_unique_id_function=lambda route: f"{route.name}{route.path_format}",
    )
    app.state.context = context
    add_predict_routes(app, context)  # first: routes are tried in this order
    add_oip_routes(app, context)
    add_health_routes(app, context.readiness)
    add_page_routes(app, files)
    add_docs_routes(app)

    @app.get("/metrics", tags=["health"], summary="Metrics for Prometheus", response_class=Response)
    async def figures() -> Response:
        text = await context.in_pool(context.metrics.render)
        return Response(text, headers={"Content-Type": context.metrics.content_type})

    app.openapi = _completed(app.openapi)  # type: ignore[method-assign]
    _answer_errors(app)
    _guard(app, context, frozenset([*ALWAYS_OPEN, *files]))
    return app


def _guard(app: FastAPI, context: Context, open_paths: frozenset[str]) -> None:
    """Add the middleware; the last one is the outermost."""
    settings = context.settings
    app.add_middleware(Inflate, context=context)
    app.add_middleware(Body, max_bytes=settings.max_body_bytes, budget=context.budget)
    app.add_middleware(Access, settings=settings, open_paths=open_paths)
    app.add_middleware(Observe, metrics=context.metrics, timeout=settings.timeout)
    if settings.cors:
        app.add_middleware(CORSMiddleware, **cors_options(settings))
    app.add_middleware(Entry, root_path=settings.root_path)


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(ZooError)
    async def zoo_error(request: Request, error: ZooError) -> Response:
        return problems.problem_of(error, route_path(request.scope))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return problems.problem_of_http(error, route_path(request.scope), request.method)

    @app.exception_handler(RequestValidationError)
    async def parameter_error(request: Request, error: RequestValidationError) -> Response:
        return problems.problem_of_parameters(error, route_path(request.scope))


def _completed(openapi: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Return a function that completes FastAPI's OpenAPI document."""

    def document() -> dict[str, Any]:
        result = openapi()
        components = result["components"]
        for model in (problems.Problem, problems.OipProblem, InferRequest):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            components["schemas"].update(schema.pop("$defs", {}))
            components["schemas"][model.__name__] = schema
        components["securitySchemes"] = SECURITY
        result["security"] = [{}, *({name: []} for name in SECURITY)]  # none is needed on this machine
        return result

    return document
