"""Access control, body limits and parameter names, enforced before the body of a request is in memory."""

from __future__ import annotations

import asyncio
import time
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.requests import Request  # noqa: TC002 -- FastAPI evaluates annotations

from zoo.predictors.remote.oip import JSON_LENGTH
from zoo.serve.server.core.errors import FOREIGN, BadRequestError, NoKeyError, SlowBodyError, TooLargeError
from zoo.serve.server.core.settings import ANY_ORIGIN, has_key, is_loopback
from zoo.serve.server.http.problems import problem, problem_of
from zoo.serve.server.http.request import route_path, trace_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from zoo.serve.server.core.admission import Budget
    from zoo.serve.server.core.settings import ServerSettings

    Headers = Mapping[bytes, bytes]

HEALTH = "/v2/health/"
"""Prefix of paths that need no key, besides those that an app names."""


class Access:
    """ASGI middleware that requires the key or, without a key, that requests come from this machine.

    Args:
        app: ASGI app to guard.
        settings: settings with `api_key` and `remote`.
        open_paths: paths that need no key.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, open_paths: frozenset[str]) -> None:
        self.app = app
        self.key = None if settings.api_key is None else settings.api_key.get_secret_value().encode()
        self.remote = settings.remote
        self.cors = settings.cors
        self.open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (refusal := self._refusal(scope)) is None:
            await self.app(scope, receive, send)
        else:
            await refusal(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        path, headers = route_path(scope), dict(scope["headers"])
        if self.key is not None:
            if path in self.open_paths or path.startswith(HEALTH) or has_key(headers, self.key):
                return None
            return problem(401, str(NoKeyError()), path=path, headers={"WWW-Authenticate": "Bearer"})
        reason = None if self.remote else _foreign(scope, headers, self.cors)
        return None if reason is None else problem(403, reason, path=path)


class Body:
    """ASGI middleware that stops bodies that are too large or slow, and work for disconnected clients.

    Args:
        app: ASGI app to guard.
        max_bytes: maximum size of a body.
        budget: memory budget of all bodies together.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, budget: Budget) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared) > self.max_bytes:
            too_large = problem_of(_too_large(int(declared), self.max_bytes), route_path(scope))
            await too_large(scope, receive, send)
            return
        reader = Reader(self, scope, receive)
        try:
            await self.app(scope, reader.receive, reader.watched(send))
        except asyncio.CancelledError:
            if not reader.gone:
                raise
            reader.task.uncancel()
        finally:
            reader.close()


class Reader:
    """Reader of one request's body that then cancels the request if its client disconnects.

    Args:
        guard: middleware with the limits.
        scope: ASGI scope.
        receive: ASGI `receive` of the server.
    """

    def __init__(self, guard: Body, scope: Scope, receive: Receive) -> None:
        self.guard = guard
        self.trace = trace_of(scope)
        self.task = _current_task()
        self.gone = False
        self._receive = receive
        self._answered = False
        self._watcher: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        """Return the next part of the body, or the disconnect message.

        Raises:
            TooLargeError: the body exceeds the limit.
            SlowBodyError: the body is not complete at the deadline.
            QueueFullError: the memory budget is exhausted.
        """
        if self._watcher is not None:
            await self._watcher
            return {"type": "http.disconnect"}
        try:
            async with asyncio.timeout(self.trace.deadline - time.monotonic()):
                message = await self._receive()
        except TimeoutError as error:
            raise SlowBodyError(
                f"got {self.trace.bytes_in} bytes of the body in {self.trace.seconds:.1f} s, expected all: "
                f"send a smaller image, or use a faster network"
            ) from error
        if message["type"] == "http.request":
            self._count(len(message.get("body", b"")))
            if not message.get("more_body", False):
                self._watcher = asyncio.create_task(self._watch())
        return message

    def watched(self, send: Send) -> Send:
        """Return a wrapper of `send` that records when the response is complete."""

        async def noted(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self._answered = True

        return noted

    def close(self) -> None:
        """Release the memory of the body, and stop watching."""
        self.guard.budget.release(self.trace.bytes_in)
        if self._watcher is not None:
            self._watcher.cancel()

    def _count(self, size: int) -> None:
        if self.trace.bytes_in + size > self.guard.max_bytes:
            raise _too_large(self.trace.bytes_in + size, self.guard.max_bytes)
        self.guard.budget.hold(size)
        self.trace.bytes_in += size

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._answered:
            self.gone = True
            self.task.cancel()


async def check_parameters(request: Request) -> None:
    """Check the names of the query parameters: a misspelled one would silently leave the default in place.

    Raises:
        BadRequestError: a parameter that the route does not have, or one that is given twice.
    """
    if not request.scope["query_string"]:
        return
    expected = [field.alias for field in request.scope["route"].dependant.query_params]
    given = request.query_params
    for name in given:
        if name not in expected:
            near = get_close_matches(name.lower(), expected, n=1)
            advice = f"use {near[0]}" if near else "leave it out"
            known = ", ".join(expected) or "none"
            raise BadRequestError(f"got parameter {name[:50]!r}, expected {known}: {advice}")
        if len(given.getlist(name)) > 1:
            raise BadRequestError(f"got parameter {name} more than once: leave out the others")


def cors_options(settings: ServerSettings) -> dict[str, Any]:
    """Return the options of Starlette's `CORSMiddleware`."""
    return {
        "allow_origins": settings.cors,
        "allow_methods": ("GET", "HEAD", "POST"),
        "allow_headers": (
            "Authorization",
            "Content-Encoding",
            "Content-Type",
            JSON_LENGTH,
            "X-API-Key",
            "X-Request-ID",
        ),
        "expose_headers": ("Retry-After", "Server-Timing", "X-Request-ID", "X-Zoo-Model", JSON_LENGTH),
        "allow_private_network": True,  # pages of the internet that the settings name
    }


def _foreign(scope: Scope, headers: Headers, cors: tuple[str, ...]) -> str | None:
    """Return the reason if a request is not from a program or page on this machine; None if it is."""
    client = scope.get("client")  # None: a Unix domain socket
    if client is not None and not is_loopback(client[0]):
        return FOREIGN
    host = headers.get(b"host", b"localhost").decode("latin-1")
    if not is_loopback(_host_name(f"//{host}")):
        return (
            f"got Host {host[:80]!r}, expected localhost or 127.0.0.1: use that name, or start with --api-key"
        )
    origin = headers.get(b"origin", b"").decode("latin-1")
    if origin and not ({origin, ANY_ORIGIN} & {*cors} or is_loopback(_host_name(origin))):
        return (
            f"got Origin {origin[:80]!r}: pages of other hosts need a key, start the server with --api-key, "
            "or with --cors ORIGIN"
        )
    return None


@lru_cache(maxsize=1024)
def _host_name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _too_large(size: int, limit: int) -> TooLargeError:
    return TooLargeError(f"got a body of {size} bytes or more, expected at most {limit}: send a smaller one")


def _current_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None  # ASGI servers run each request in one
    return task
