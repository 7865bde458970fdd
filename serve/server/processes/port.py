"""Port that the workers listen on.

On Linux each of several workers has its own socket (SO_REUSEPORT), and the system distributes the
connections. With one shared socket, a worker that is awake takes everything that waits: of 32 simultaneous
connections, 4 workers got 9, 4, 1, 18 and 0, 17, 14, 1, and kept them.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

from zoo.errors import ZooError
from zoo.serve.server.processes.job import BACKLOG


class Port:
    """Port of this machine.

    Args:
        host: name or address of this machine.
        port: port number; 0 for any free port.
        workers: number of workers that will listen.

    Raises:
        ZooError: the port is not available.
    """

    def __init__(self, host: str, port: int, workers: int = 1) -> None:
        self._several = workers > 1 and sys.platform == "linux"
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._family: socket.AddressFamily = found[0]
            self._address: tuple[Any, ...] = found[4]
            self._kept = self._bind()  # fails if anything listens there, even with SO_REUSEPORT
            self._address = self._kept.getsockname()
            if self._several:
                self._kept.close()
                self._kept = self._bind(shared=True)  # holds the port while no worker is alive
            else:
                self._kept.listen(BACKLOG)  # connections wait while a worker is replaced
        except OSError as error:
            raise ZooError(
                f"cannot listen on {host}:{port} ({error.strerror or error}), expected a free port of this "
                f"machine: choose another with --port, or stop the program that uses it"
            ) from error

    @property
    def number(self) -> int:
        """Return the port number."""
        return int(self._address[1])

    def open(self) -> socket.socket:
        """Return a socket for one worker, which calls `listen` when it is ready; the caller closes it."""
        return self._bind(shared=True) if self._several else self._kept.dup()

    def close(self) -> None:
        """Close this process's sockets and leave the port to the workers."""
        self._kept.close()

    def _bind(self, *, shared: bool = False) -> socket.socket:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(self._address)
        except OSError:
            sock.close()
            raise
        return sock
