"""The service of the Open Inference Protocol over gRPC, as `tritonclient.grpc` calls it.

Statuses, words, limits, metrics and logs are those of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import grpc
from grpc import StatusCode
from tritonclient.grpc import service_pb2 as pb

from zoo.errors import ZooError
from zoo.serve.server.core.answer import answer
from zoo.serve.server.core.errors import (
    CLIENT_GONE,
    FOREIGN,
    INTERNAL,
    BadRequestError,
    Fault,
    ForeignError,
    ModelFailedError,
    NoKeyError,
    NotReadyError,
    SlowBodyError,
    UnknownMethodError,
    UnknownNameError,
    fault_of,
)
from zoo.serve.server.core.logs import log_request
from zoo.serve.server.core.settings import has_key, is_loopback
from zoo.serve.server.core.timing import UNMATCHED, Trace
from zoo.serve.server.grpc import codec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from zoo.serve.server.core.context import Context

    Method = Callable[[Any, Trace], Awaitable[bytes]]

log = logging.getLogger(__name__)

CODES = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    405: StatusCode.UNIMPLEMENTED,
    408: StatusCode.DEADLINE_EXCEEDED,
    413: StatusCode.RESOURCE_EXHAUSTED,
    500: StatusCode.INTERNAL,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}
"""gRPC's code for each status."""

PROBES = frozenset(["ServerLive", "ServerReady"])
"""Methods that need no key."""

REFUSED_S = 0.1
"""Seconds within which gRPC ends a call whose message it has refused as too large."""


class Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Handler of all calls.

    Args:
        context: context of the HTTP server.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._methods: dict[str, Method] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of a call; None for another service."""
        service, _, name = handler_call_details.method.removeprefix("/").partition("/")
        if service != codec.SERVICE:
            return None
        # as a stream of messages, of which none is read before access is checked
        return grpc.stream_unary_rpc_method_handler(partial(self._call, name))

    async def _call(self, name: str, _: object, call: grpc.aio.ServicerContext[Any, bytes]) -> bytes:
        """Answer a call and record it."""
        headers = _headers(call)
        trace = Trace.begin(headers.get(b"x-request-id", b""), self._context.settings.timeout)
        trace.status = CLIENT_GONE  # unless it ends otherwise
        try:
            outcome = await self._outcome(name, headers, call, trace)
            trace.status = outcome.status if isinstance(outcome, Fault) else 200
        finally:
            route = f"/{codec.SERVICE}/{name}" if name in self._methods else UNMATCHED
            self._context.metrics.request(trace, route)
            log_request(trace, route)
        trailing: tuple[tuple[str, str], ...] = (("x-request-id", trace.id),)
        if isinstance(outcome, bytes):
            call.set_trailing_metadata(trailing)
            return outcome
        if outcome.retry_after_s is not None:  # of gRPC's retry policies
            trailing += (("grpc-retry-pushback-ms", str(1000 * outcome.retry_after_s)),)
        await call.abort(CODES.get(outcome.status, StatusCode.UNKNOWN), outcome.detail, trailing)
        raise AssertionError  # `abort` raises

    async def _outcome(
        self,
        name: str,
        headers: dict[bytes, bytes],
        call: grpc.aio.ServicerContext[Any, bytes],
        trace: Trace,
    ) -> bytes | Fault:
        try:
            self._check_access(name, headers, call.peer())
            if name not in self._methods:
                raise UnknownMethodError(
                    f"got method {name[:50]!r}, expected one of {', '.join(self._methods)}: the others of "
                    f"Triton are not part of the Open Inference Protocol"
                )
            response = await self._methods[name](call, trace)
        except ZooError as error:
            return fault_of(error)
        except Exception:
            log.exception("request %s to %s failed", trace.id, name)
            return Fault(500, INTERNAL)
        trace.bytes_out = len(response)
        return response

    def _check_access(self, name: str, headers: dict[bytes, bytes], peer: str) -> None:
        """Raise without the key or, if the server has none, unless a call comes from this machine.

        Raises:
            NoKeyError: it lacks the key.
            ForeignError: it comes from elsewhere.
        """
        settings = self._context.settings
        if settings.api_key is not None:
            if name not in PROBES and not has_key(headers, settings.api_key.get_secret_value().encode()):
                raise NoKeyError
        elif not settings.remote and not all(map(is_loopback, senders(peer, headers))):
            raise ForeignError(FOREIGN)

    async def _read(self, kind: Any, call: grpc.aio.ServicerContext[Any, bytes], trace: Trace) -> Any:
        """Return the message of a call.

        Raises:
            BadRequestError: not such a message.
            SlowBodyError: it is not complete at the deadline.
            QueueFullError: the memory budget is exhausted.
        """
        context = self._context
        with context.budget.holding(context.settings.max_body_bytes):  # it may be as large
            try:
                async with asyncio.timeout(trace.deadline - time.monotonic()):
                    body = await call.read()
            except TimeoutError as error:
                raise SlowBodyError(
                    f"got no complete message in {trace.seconds:.1f} s: send a smaller image, or use a "
                    f"faster network"
                ) from error
            if isinstance(body, bytes):
                trace.bytes_in = len(body)
                return await context.in_pool(codec.parse, kind, body)
        trace.status = 413
        await asyncio.sleep(REFUSED_S)
        raise BadRequestError(f"got no message, expected a {kind.DESCRIPTOR.name}: send one")

    async def _live(self, _: object, __: Trace) -> bytes:
        return codec.serialized(pb.ServerLiveResponse(live=True))

    async def _ready(self, _: object, __: Trace) -> bytes:
        try:
            await self._context.readiness.check()
        except NotReadyError:
            return codec.serialized(pb.ServerReadyResponse(ready=False))
        return codec.serialized(pb.ServerReadyResponse(ready=True))

    async def _server_metadata(self, _: object, __: Trace) -> bytes:
        return codec.server_metadata()

    async def _model_ready(self, call: Any, trace: Trace) -> bytes:
        request = await self._read(pb.ModelReadyRequest, call, trace)
        try:
            model = self._context.model(request.name, request.version or None)
            await self._context.readiness.check_started(model)
        except (UnknownNameError, NotReadyError, ModelFailedError):
            return codec.serialized(pb.ModelReadyResponse(ready=False))
        return codec.serialized(pb.ModelReadyResponse(ready=True))

    async def _model_metadata(self, call: Any, trace: Trace) -> bytes:
        request = await self._read(pb.ModelMetadataRequest, call, trace)
        return codec.model_metadata(self._context.model(request.name, request.version or None))

    async def _infer(self, call: Any, trace: Trace) -> bytes:
        context = self._context
        request = await self._read(pb.ModelInferRequest, call, trace)
        model = context.model(request.model_name, request.model_version or None)
        trace.model = model.name

        async def read() -> Any:
            return request

        with context.budget.holding(trace.bytes_in):
            return (await answer(context, model, trace, read, codec.decoder(model))).response


def senders(peer: str, headers: dict[bytes, bytes]) -> list[str]:
    """Return the addresses that a call comes from, those that proxies name included.

    Example:
        >>> senders("ipv6:%5B::1%5D:50314", {b"x-forwarded-for": b"192.0.2.7, 127.0.0.1"})
        ['192.0.2.7', '127.0.0.1', '::1']
    """
    forwarded = headers.get(b"x-forwarded-for", b"").decode("latin-1")
    kind, _, address = unquote(peer).partition(":")
    direct = [] if kind == "unix" else [address.rpartition(":")[0].strip("[]")]
    return [each.strip() for each in forwarded.split(",") if each.strip()] + direct


def _headers(call: grpc.aio.ServicerContext[Any, bytes]) -> dict[bytes, bytes]:
    """Return the metadata of a call."""
    pairs = call.invocation_metadata() or ()
    return {name.encode(): value if isinstance(value, bytes) else value.encode() for name, value in pairs}
