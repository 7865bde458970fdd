"""A server whose capacity is known: each request takes a fixed time, one after the other."""

from __future__ import annotations

import asyncio
import json
import re
import selectors
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from zoo.serve.load.http import parse_address, request
from zoo.serve.load.loops import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    MakeServer = Callable[..., "TimedServer"]

MODEL = {
    "name": "eln",
    "version": "1",
    "backend": "ort",
    "description": "ONNX Runtime CPUExecutionProvider",
    "reason": "no GPU",
    "imgsz": [32, 48],
    "resize": "stretch",
}
METADATA = {
    "name": "eln",
    "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
    "outputs": [
        {"name": name, "datatype": "UINT8", "shape": [-1, -1, -1]} for name in ("confidence", "mask")
    ],
}
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class TimedServer:
    """An HTTP server on a thread of its own that speaks the routes a load test asks for.

    Args:
        service_s: seconds each inference takes; one runs at a time, the others wait in order.
        stall: number of the inference before which the server stands still for half a second.
        fail_each: each inference of this multiple is answered with 503.
        key: of the API.
        answer: bytes instead of an answer of HTTP.
        chunked: whether answers state no length.
    """

    def __init__(
        self,
        service_s: float = 0.0,
        *,
        stall: int = 0,
        fail_each: int = 0,
        key: str | None = None,
        answer: bytes = b"",
        chunked: bool = False,
    ) -> None:
        self.service_s, self.stall, self.fail_each = service_s, stall, fail_each
        self.key, self.answer, self.chunked = key, answer, chunked
        self.bodies: list[tuple[str, bytes]] = []
        self.count = 0
        self.loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self.started = threading.Event()
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self._serve(),))
        self.thread.start()
        assert self.started.wait(5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def target(self, *, timeout: float = 5.0, bodies: tuple[bytes, ...] = (b"image",)) -> Target:
        address = parse_address(self.url)
        return Target(address, tuple(request(address, "/predict", {}, body) for body in bodies), timeout)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.stopping.set)
        self.thread.join()
        self.loop.close()

    async def _serve(self) -> None:
        self.stopping, self.turn = asyncio.Event(), asyncio.Lock()
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.started.set()
        await self.stopping.wait()
        server.close()
        talks = asyncio.all_tasks() - {asyncio.current_task()}
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(EOFError, ConnectionError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = LENGTH.search(head)
                body = await reader.readexactly(int(length.group(1)) if length else 0)
                writer.write(self.answer or await self._answer(head, body))
        writer.close()

    async def _answer(self, head: bytes, body: bytes) -> bytes:
        if self.key and f"Bearer {self.key}".encode() not in head:
            return self._http(401, b'{"detail": "no key"}')
        method, route, _ = head.decode().split(maxsplit=2)
        if method == "GET":
            known: dict[str, Any] = {"/models": [MODEL], "/v2/models/eln": METADATA}
            found = known.get(route)
            return self._http(404 if found is None else 200, json.dumps(found).encode())
        self.bodies.append((route, body))
        return await self._infer()

    async def _infer(self) -> bytes:
        self.count += 1
        if self.fail_each and self.count % self.fail_each == 0:
            return self._http(503, b'{"detail": "the queue is full"}')
        arrived = time.perf_counter()
        stalls = self.count == self.stall
        async with self.turn:
            waited = time.perf_counter() - arrived
            await asyncio.sleep(0.5 if stalls else self.service_s)
        timing = f"queue;dur={1000 * waited:.3f}, compute;dur={1000 * self.service_s:.3f}"
        return self._http(200, b"x" * 100, f"Server-Timing: {timing}\r\n")

    def _http(self, status: int, body: bytes, headers: str = "") -> bytes:
        if self.chunked:
            parts = b"%x\r\n%b\r\n3;x=y\r\nend\r\n0\r\n\r\n" % (len(body), body)
            return f"HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n{headers}\r\n".encode() + parts
        return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


@pytest.fixture
def make_server() -> Iterator[MakeServer]:
    """Return a function that starts a `TimedServer`."""
    servers: list[TimedServer] = []

    def make(*arguments: Any, **options: Any) -> TimedServer:
        servers.append(TimedServer(*arguments, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def pixels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
