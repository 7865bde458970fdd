"""A request: its trace, its route, and its response."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.serve.server.core.answer import answer
from zoo.serve.server.core.timing import UNMATCHED, Trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Scope

    from zoo.serve.server.core.answer import Decoded
    from zoo.serve.server.core.context import Context
    from zoo.serve.server.core.model import Model

KEY = "zoo.trace"
"""Key of the trace in the ASGI scope."""


def start_trace(scope: Scope, timeout: float) -> Trace:
    """Return the trace of a new request, and store it in its scope.

    Args:
        scope: ASGI scope.
        timeout: seconds until the deadline.
    """
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    trace = Trace.begin(given, timeout)
    scope[KEY] = trace
    return trace


def trace_of(scope: Scope) -> Trace:
    """Return the trace of a request."""
    trace: Trace = scope[KEY]
    return trace


def route_of(scope: Scope) -> str:
    """Return the template of a request's route, e.g. `/models/{name}/card`."""
    return getattr(scope.get("route"), "path", UNMATCHED)


def route_path(scope: Scope) -> str:
    """Return the path of a request below the app's mount point."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


async def respond(
    context: Context,
    model: Model,
    request: Request,
    read: Callable[[Request], Awaitable[bytes]],
    decode: Callable[[bytes], Decoded[Response]],
) -> Response:
    """Return the response to a request for a prediction.

    Args:
        context: context of the app.
        model: model to run.
        request: HTTP request.
        read: function that reads the body.
        decode: argument of `answer`.

    Raises:
        ZooError: an invalid request, overload, timeout or failure of the backend.
    """
    response, server_timing = await answer(
        context, model, trace_of(request.scope), lambda: read(request), decode
    )
    response.headers.update({"Server-Timing": server_timing, "X-Zoo-Model": model.name})
    return response
