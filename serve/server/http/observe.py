"""Outermost middleware: counts and logs requests, and turns unhandled exceptions into 500 responses."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from zoo.serve.server.core.errors import CLIENT_GONE, INTERNAL
from zoo.serve.server.core.logs import log_request
from zoo.serve.server.http.problems import problem
from zoo.serve.server.http.request import route_of, route_path, start_trace

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from zoo.serve.server.core.metrics import Metrics
    from zoo.serve.server.core.timing import Trace

log = logging.getLogger(__name__)

NO_SNIFF = (b"x-content-type-options", b"nosniff")


class Observe:
    """ASGI middleware that observes every request.

    Args:
        app: ASGI app to observe.
        metrics: metrics to update.
        timeout: seconds from a request's first byte to its deadline.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, timeout: float) -> None:
        self.app = app
        self.metrics = metrics
        self.timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        trace = start_trace(scope, self.timeout)
        observed = _observed(send, trace)
        try:
            with suppress(ClientDisconnect):  # before its body was complete
                await self.app(scope, receive, observed)
            if not trace.status:  # nobody waits for it but middleware of an app in which this one is mounted
                await Response(status_code=CLIENT_GONE)(scope, receive, send)
        except Exception:
            log.exception("request %s to %s failed", trace.id, route_of(scope))
            if trace.status:
                raise  # the response has started: the server closes the connection
            await problem(500, INTERNAL, path=route_path(scope))(scope, receive, observed)
        finally:
            trace.status = trace.status or CLIENT_GONE
            route = route_of(scope)
            self.metrics.request(trace, route)
            log_request(trace, route)


def _observed(send: Send, trace: Trace) -> Send:
    """Return a wrapper of `send` that records status and bytes, and adds the headers of all responses."""
    request_id = (b"x-request-id", trace.id.encode())

    async def observed(message: Message) -> None:
        if message["type"] == "http.response.start":
            trace.status = message["status"]
            message["headers"] = [*message.get("headers", ()), request_id, NO_SNIFF]
        else:
            trace.bytes_out += len(message.get("body", b""))
        await send(message)

    return observed
