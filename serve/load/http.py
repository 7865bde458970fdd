"""Minimal keep-alive HTTP/1.1 connection for load tests.

`zoo.serve.load.client` has a comparison with httpx2.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from zoo.errors import ZooError

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_HEAD = 2**16
"""Maximum size of a response's head, in bytes."""


class Address(NamedTuple):
    """Address of a server."""

    host: str
    port: int
    tls: bool
    path: str = ""
    """Prefix of every route, without a trailing slash."""

    @property
    def authority(self) -> str:
        """Return the value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Answer(NamedTuple):
    """HTTP response."""

    status: int
    head: bytes
    """Status line and headers."""
    body: bytes

    def header(self, name: bytes) -> bytes:
        """Return the value of a header, empty if it is missing.

        Args:
            name: name in lower case.
        """
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.lower() == name:
                return value.strip()
        return b""


class ProtocolError(Exception):
    """Response that is not HTTP/1.1."""


class Connection:
    """Connection that opens at the first request, and again after the server closed it.

    Args:
        address: address of the server.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Connect if the connection is not open.

        Raises:
            OSError: nothing listens there.
        """
        if self.reader is not None and not self.reader.at_eof():
            return
        self.close()
        context = ssl.create_default_context() if self.address.tls else None
        self.reader, self.writer = await asyncio.open_connection(
            self.address.host, self.address.port, ssl=context, limit=LONGEST_HEAD
        )

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        if self.writer is not None:
            with suppress(RuntimeError):  # the event loop is closed
                self.writer.close()
        self.reader = self.writer = None

    async def ask(self, request: bytes) -> Answer:
        """Send a request once, without retries, and return the response.

        Args:
            request: head and body as sent over the wire.

        Raises:
            OSError: the connection failed.
            EOFError: the server closed the connection before the response was complete.
            ProtocolError: the response is not HTTP/1.1.
        """
        await self.open()
        assert self.reader is not None
        assert self.writer is not None
        self.writer.write(request)
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            answer = Answer(_status(head), head, b"")
            body = await self._body(self.reader, answer)
        except (asyncio.LimitOverrunError, ValueError) as error:
            raise ProtocolError(str(error)) from error
        if answer.header(b"connection").lower() == b"close":
            self.close()
        return answer._replace(body=body)

    async def _body(self, reader: asyncio.StreamReader, answer: Answer) -> bytes:
        if length := answer.header(b"content-length"):
            return await reader.readexactly(int(length))
        if answer.header(b"transfer-encoding").lower() == b"chunked":
            return await _chunks(reader)
        if answer.status in (204, 304):
            return b""
        raise ProtocolError("a response without a length")


def parse_address(url: str) -> Address:
    """Return the address in a URL.

    Args:
        url: e.g. `http://host:8000`, with a path if a proxy adds one.

    Raises:
        ZooError: not the URL of a server.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise ZooError(f"{url}: {error}, expected e.g. http://localhost:8000") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise ZooError(f"{url} is not the address of a server, expected e.g. http://localhost:8000")
    tls = parts.scheme == "https"
    return Address(parts.hostname, port or (443 if tls else 80), tls, parts.path.rstrip("/"))


def request(address: Address, route: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
    """Return a request as sent over the wire: GET without a body, POST with one.

    Args:
        address: address of the server.
        route: e.g. `/predict?format=png`.
        headers: headers besides Host and Content-Length.
        body: request body; None for a GET request.
    """
    lines = [f"{'GET' if body is None else 'POST'} {address.path}{route} HTTP/1.1"]
    lines += [f"Host: {address.authority}", f"Content-Length: {len(body or b'')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
        pass
    return b"".join(parts)


def _status(head: bytes) -> int:
    version, status, *_ = head.split(maxsplit=2)
    if not version.startswith(b"HTTP/1."):
        raise ValueError(f"answer begins with {head[:20]!r}")
    return int(status)
