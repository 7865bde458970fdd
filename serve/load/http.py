"""One keep-alive HTTP/1.1 connection, no more than a load test needs.

Measured against httpx2 2.16 on one core, 32 connections, a 57 kB request and an 11 kB answer from a server
that does nothing: see `zoo.serve.load.client`.
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
"""Bytes of an answer's head, at most."""


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int
    tls: bool
    path: str = ""
    """What stands before every route, without a slash at its end."""

    @property
    def authority(self) -> str:
        """Return the value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Answer(NamedTuple):
    """What came back."""

    status: int
    head: bytes
    """Status line and headers."""
    body: bytes

    def header(self, name: bytes) -> bytes:
        """Return the value of a header, empty if it is not there.

        Args:
            name: in lower case.
        """
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.lower() == name:
                return value.strip()
        return b""


class ProtocolError(Exception):
    """An answer that is not HTTP/1.1."""


class Connection:
    """A connection that is opened at the first request and again after the server closed it.

    Args:
        address: of the server.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Connect, unless it is connected.

        Raises:
            OSError: nobody listens there.
        """
        if self.reader is not None and not self.reader.at_eof():
            return
        self.close()
        context = ssl.create_default_context() if self.address.tls else None
        self.reader, self.writer = await asyncio.open_connection(
            self.address.host, self.address.port, ssl=context, limit=LONGEST_HEAD
        )

    def close(self) -> None:
        """Close it; the next request opens it anew."""
        if self.writer is not None:
            with suppress(RuntimeError):  # the event loop has ended
                self.writer.close()
        self.reader = self.writer = None

    async def ask(self, request: bytes) -> Answer:
        """Send a request and return the answer; never twice, whatever happens.

        Args:
            request: head and body as they go over the wire.

        Raises:
            OSError: the connection failed.
            EOFError: the server closed it before the answer was whole.
            ProtocolError: what came back is not HTTP/1.1.
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
        raise ProtocolError("an answer of no stated length")


def parse_address(url: str) -> Address:
    """Return where a server listens.

    Args:
        url: such as `http://host:8000`, with a path where a proxy adds one.

    Raises:
        ZooError: not such a URL.
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
    """Return a request as it goes over the wire: GET without a body, POST with one.

    Args:
        address: of the server.
        route: such as `/predict?format=png`.
        headers: besides Host and Content-Length.
        body: what is sent.
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
