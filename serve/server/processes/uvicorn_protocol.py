"""uvicorn's HTTP protocol with additional limits on slow or large headers, slow bodies and slow readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

    from zoo.serve.server.core.settings import ServerSettings

MAX_HEADER_BYTES = 65536
"""Maximum size of the path and all headers of a request."""

GRACE_S = 1.0
"""Extra seconds in which the app responds to a slow body before the connection is closed."""


class GuardedProtocol(HttpToolsProtocol):
    """Protocol that closes slow connections.

    A connection is slow if its next request, with headers and body, is not complete in time, or if its client
    has read nothing of a response in that time.
    """

    request_timeout: float
    """Time limit in seconds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._too_late: asyncio.TimerHandle | None = None
        self._in_headers = True
        self._header_bytes = 0
        self._responses = 0
        """Number of responses so far."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._arm()
        self._header_bytes += len(data)
        super().data_received(data)
        if self._in_headers and self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The headers are over {MAX_HEADER_BYTES} bytes.")

    def on_headers_complete(self) -> None:
        self._in_headers = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_headers, self._header_bytes = True, 0
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._responses += 1
        self._look_later(self._responses)

    def _look_later(self, response: int) -> None:
        if left := self.transport.get_write_buffer_size():
            self.loop.call_later(self.request_timeout, self._look_after, left, response)

    def _look_after(self, before: int, response: int) -> None:
        """Close the connection if it has as much to send as before, unless a later response was added."""
        if response != self._responses:
            return
        if self.transport.get_write_buffer_size() >= before:
            self.transport.abort()
        else:
            self._look_later(response)

    def _arm(self) -> None:
        if self._too_late is None:
            self._too_late = self.loop.call_later(self.request_timeout, self.transport.close)

    def _disarm(self) -> None:
        if self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None


def guarded_protocol(settings: ServerSettings) -> type[asyncio.Protocol]:
    """Return the `http` of uvicorn's `Config` for a server with these settings."""
    return type("_Protocol", (GuardedProtocol,), {"request_timeout": settings.timeout + GRACE_S})
