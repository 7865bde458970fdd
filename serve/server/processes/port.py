"""The port that the workers listen at.

On Linux each of several workers has a socket of its own (SO_REUSEPORT), among which the system shares out
the connections. Of one socket for all, a worker that is awake takes whatever waits: of 32 connections that
came at once, 4 workers got 9, 4, 1, 18 and 0, 17, 14, 1, and kept them.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

from zoo.errors import ZooError
from zoo.serve.server.processes.job import BACKLOG


class Port:
    """A port of this machine.

    Args:
        host: a name or address of this machine.
        port: 0 for any that is free.
        workers: how many are to listen.

    Raises:
        ZooError: it cannot be had.
    """

    def __init__(self, host: str, port: int, workers: int = 1) -> None:
        self._several = workers > 1 and sys.platform == "linux"
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._family: socket.AddressFamily = found[0]
            self._address: tuple[Any, ...] = found[4]
            self._kept = self._bind()  # fails if anyone listens there, also with SO_REUSEPORT
            self._address = self._kept.getsockname()
            if self._several:
                self._kept.close()
                self._kept = self._bind(shared=True)  # holds the port while no worker lives
            else:
                self._kept.listen(BACKLOG)  # connections wait while a worker is replaced
        except OSError as error:
            raise ZooError(
                f"cannot listen at {host}:{port} ({error.strerror or error}), expected a free port of this "
                f"machine: choose another with --port, or end what uses it"
            ) from error

    @property
    def number(self) -> int:
        """Return its number."""
        return int(self._address[1])

    def open(self) -> socket.socket:
        """Return a socket for one worker, which calls `listen` when it is ready; the caller closes it."""
        return self._bind(shared=True) if self._several else self._kept.dup()

    def close(self) -> None:
        """Leave the port to the workers."""
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
