"""Proxy of a server on Ray: forwards each request to a replica, and to another one if that dies.

Ray Serve's own proxies do not retry: a request fails with its replica. Requests to this server change
nothing, so that each can be repeated.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.middleware.cors import CORSMiddleware

from zoo.errors import ZooError
from zoo.serve.server.core.admission import Budget
from zoo.serve.server.core.context import LARGEST_AT_ONCE
from zoo.serve.server.core.errors import DeadlineError, NotReadyError, QueueFullError
from zoo.serve.server.http.app import ALWAYS_OPEN
from zoo.serve.server.http.entry import Entry
from zoo.serve.server.http.guards import Access, Body, cors_options
from zoo.serve.server.http.problems import problem_of
from zoo.serve.server.http.request import route_path, start_trace, trace_of
from zoo.serve.server.http.routes_page import page_files

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from zoo.serve.server.core.settings import ServerSettings

TRIES = 4
"""Replicas that may die during one request before it fails: the request may be what kills them."""

PASSED_ON = (
    "type",
    "asgi",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "headers",
    "client",
    "server",
)
"""Keys of a request's scope that a replica needs."""


class Request(NamedTuple):
    """Request to a replica."""

    scope: dict[str, Any]
    body: bytes


class Answer(NamedTuple):
    """Response of a replica."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class AccessProxy:
    """Proxy that checks access and body limits before forwarding; replicas check the decoded images.

    Args:
        settings: settings of the server.
        replicas: handle of the replicas, whose `answer` takes a `Request` and returns an `Answer`.
    """

    def __init__(self, settings: ServerSettings, replicas: DeploymentHandle[Any]) -> None:
        self._settings = settings
        self._replicas = replicas

    def __serve_build_asgi_app__(self) -> ASGIApp:
        settings = self._settings
        budget = Budget(LARGEST_AT_ONCE * settings.max_body_bytes)
        body = Body(self._forward, settings.max_body_bytes, budget)
        access = Access(body, settings, frozenset([*ALWAYS_OPEN, *page_files()]))

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await _live(receive, send)
            else:
                start_trace(scope, settings.timeout)
                await access(scope, receive, send)

        cors = CORSMiddleware(app, **cors_options(settings)) if settings.cors else app
        return Entry(cors, settings.root_path)

    async def served(self) -> Any:
        """Return a replica's descriptions of the models."""
        return await self._replicas.served.remote()

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = Request(
                {name: scope[name] for name in PASSED_ON if name in scope}, await _read(receive)
            )
            answer = await self._ask(request, trace_of(scope).deadline)
        except ZooError as error:
            await problem_of(error, route_path(scope))(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _ask(self, request: Request, deadline: float) -> Answer:
        """Return the response of the first replica that survives.

        Raises:
            DeadlineError: there is no response in time.
            QueueFullError: too many requests wait.
            NotReadyError: every replica that got the request died.
        """
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError

        for _ in range(TRIES):
            response = self._replicas.answer.remote(request)
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    answer: Answer = await response
                    return answer
            except RayActorError:
                continue
            except BackPressureError as error:
                raise QueueFullError("too many requests wait for a replica: try again in 1 s", 1) from error
            except TimeoutError as error:
                response.cancel()
                raise DeadlineError(
                    f"got no response from a replica within {self._settings.timeout:g} s: try again"
                ) from error
            except asyncio.CancelledError:
                response.cancel()
                raise
        raise NotReadyError(f"{TRIES} replicas died during this request: see their log")


async def answer_of(app: ASGIApp, request: Request) -> Answer:
    """Return the response of an ASGI app to a request."""
    messages = [{"type": "http.request", "body": request.body, "more_body": False}]
    status, headers, parts = 500, [], []

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()  # a disconnect cancels the task instead
        return messages.pop()

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = (
                message["status"],
                [(bytes(name), bytes(value)) for name, value in message["headers"]],
            )
        else:
            parts.append(message.get("body", b""))

    await app(dict(request.scope), receive, send)
    return Answer(status, headers, b"".join(parts))


async def _read(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _live(receive: Receive, send: Send) -> None:
    """Complete the lifespan events, which have nothing to start or stop."""
    for part in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{part}.complete"})
