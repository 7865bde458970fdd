"""Limits on slow connections, with an app that answers at once."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import uvicorn
from starlette.responses import Response

from zoo.serve.server.core.settings import ServerSettings
from zoo.serve.server.processes.uvicorn_protocol import guarded_protocol

SIZES = {"/small": 6_000_000, "/large": 14_000_000}
SPEED = 8e6
"""Bytes a second that the client reads."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    await Response(bytes(SIZES[scope["path"]]))(scope, receive, send)


def test_a_client_that_reads_steadily_gets_a_larger_response_after_a_smaller_one() -> None:
    protocol = guarded_protocol(ServerSettings(timeout=0.1))  # looks after each response at 1.1 s
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, lifespan="off", log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.connect(listening.getsockname())
        try:
            for path, size in SIZES.items():
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                begin, read = time.monotonic(), 0
                while read < size:
                    part = client.recv(65536)
                    assert part, f"closed after {read} bytes"
                    read += len(part)
                    time.sleep(max(0, read / SPEED - (time.monotonic() - begin)))
        finally:
            server.should_exit = True
            client.close()
            thread.join(10)
