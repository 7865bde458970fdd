"""Compression of requests and responses (`Content-Encoding`)."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Literal, get_args

from zoo.serve.server.core.errors import BadRequestError, TooLargeError, UnsupportedFormatError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from zoo.serve.server.core.context import Context

Encoding = Literal["gzip", "deflate"]

WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""Argument `wbits` of zlib for each encoding; in HTTP, `deflate` is zlib's format."""

ALIASES = {"": "identity", "x-gzip": "gzip"}

FAST = 1
"""Level of compression."""


def compress(body: bytes, encoding: Encoding) -> bytes:
    """Return the compressed body."""
    stream = zlib.compressobj(FAST, wbits=WINDOW_BITS[encoding])
    return stream.compress(body) + stream.flush()


class Inflater:
    """Incremental decompression that never holds more than `limit` bytes of output.

    Args:
        encoding: encoding of the data.
        limit: maximum number of bytes after decompression.
    """

    def __init__(self, encoding: Encoding, limit: int) -> None:
        self.size = 0
        """Number of bytes so far, after decompression."""
        self._encoding = encoding
        self._limit = limit
        self._stream = zlib.decompressobj(WINDOW_BITS[encoding])

    def inflate(self, data: bytes, *, last: bool) -> bytes:
        """Return the next part of the data, decompressed.

        Args:
            data: next part of the compressed data.
            last: whether it is the last part.

        Raises:
            BadRequestError: data of another format, incomplete, or followed by more.
            TooLargeError: more than `limit` bytes.
        """
        try:
            part = self._stream.decompress(data, self._limit - self.size + 1)
        except zlib.error as error:
            raise BadRequestError(
                f"the body is not {self._encoding} ({error}): compress it, or omit the header "
                "Content-Encoding"
            ) from error
        self.size += len(part)
        if self.size > self._limit:
            raise TooLargeError(
                f"the body is over {self._limit} bytes when decompressed: send a smaller image, or fewer at "
                "once"
            )
        if self._stream.unused_data or (last and not self._stream.eof):
            raise BadRequestError(
                f"the body is not one whole {self._encoding} stream: compress it in one piece"
            )
        return part


class Inflate:
    """ASGI middleware that decompresses request bodies as they are read.

    Args:
        app: ASGI app that reads the bodies.
        context: context with the limit, the memory budget and the threads.
    """

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self.app = app
        self.context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (encoding := _encoding_of(scope)) == "identity":
            await self.app(scope, receive, send)
            return
        reader = _Reader(self.context, encoding, receive)
        try:
            await self.app(scope, reader.receive, send)
        finally:
            self.context.budget.release(reader.held)


class _Reader:
    """Reader of one request's compressed body."""

    def __init__(self, context: Context, encoding: str, receive: Receive) -> None:
        self.held = 0
        """Bytes of the memory budget in use."""
        self._context = context
        self._encoding = encoding
        self._receive = receive
        self._inflater: Inflater | None = None

    async def receive(self) -> Message:
        """Return the next part of the body, decompressed in the codec pool.

        Raises:
            UnsupportedFormatError: an unknown encoding; here, since a request without a body may name any.
            BadRequestError, TooLargeError: see `Inflater.inflate`.
            QueueFullError: the memory budget is exhausted.
        """
        if self._inflater is None:
            self._inflater = Inflater(_checked(self._encoding), self._context.settings.max_body_bytes)
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        last = not message.get("more_body", False)
        part = await self._context.in_pool(self._inflater.inflate, message.get("body", b""), last=last)
        self._context.budget.hold(len(part))
        self.held += len(part)
        return {**message, "body": part}


def _checked(encoding: str) -> Encoding:
    if encoding not in get_args(Encoding):
        raise UnsupportedFormatError(
            f"got Content-Encoding {encoding[:30]!r}, expected gzip or deflate: use one"
        )
    return encoding  # type: ignore[return-value]


def _encoding_of(scope: Scope) -> str:
    """Return the encoding of a request's body, `identity` without one; several are joined by commas."""
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"content-encoding"]
    text = ", ".join(values).strip().lower()
    return ALIASES.get(text, text)
