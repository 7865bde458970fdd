"""Port that the workers listen on.

On Linux each of several workers has its own socket (SO_REUSEPORT), and the system distributes the
connections. With one shared socket, a worker that is awake takes everything that waits: of 32 simultaneous
connections, 4 workers got 9, 4, 1, 18 and 0, 17, 14, 1, and kept them.
"""

from __future__ import annotations

import errno
import socket
import sys
from typing import Any

from zoo.errors import ZooError
from zoo.serve.server.processes.job import BACKLOG

NO_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL)


class Port:
    """Port of this machine.

    Args:
        host: name or address of this machine.
        port: port number; 0 for any free port.
        workers: number of workers that will listen.
        option: option of the command line that selects the port.
        bound_by_workers: whether workers bind the port themselves, as gRPC does, rather than `open` it.

    Raises:
        ZooError: the port is not available.
    """

    def __init__(
        self,
        host: str,
        port: int,
        workers: int = 1,
        *,
        option: str = "--port",
        bound_by_workers: bool = False,
    ) -> None:
        self._several = (workers > 1 or bound_by_workers) and sys.platform == "linux"
        try:
            self._family, self._address = _resolved(host, port)
            self._kept = self._bind()  # fails if anything listens there, even with SO_REUSEPORT
            self._address = self._kept.getsockname()
            if self._several:
                self._kept.close()
                self._kept = self._bind(shared=True)  # holds the port while no worker is alive
            elif bound_by_workers:
                self._kept.close()
            else:
                self._kept.listen(BACKLOG)  # connections wait while a worker is replaced
        except OSError as error:
            raise ZooError(
                f"cannot listen on {host}:{port} ({error.strerror or error}), {_advice(error, option)}"
            ) from error

    @property
    def number(self) -> int:
        """Return the port number."""
        return int(self._address[1])

    @property
    def address(self) -> str:
        """Return `host:port`, the host as a number."""
        host = f"[{self._address[0]}]" if self._family == socket.AF_INET6 else self._address[0]
        return f"{host}:{self.number}"

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


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """Return the family and the address of a host name.

    Raises:
        OSError: an unknown name.
    """
    try:
        if not host.strip():
            raise socket.gaierror(socket.EAI_NONAME, "no host name")
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except UnicodeError as error:  # a label that is too long
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from error
    return found[0], found[4]


def _advice(error: OSError, option: str) -> str:
    """Return what was expected in place of an address or port that cannot be used, and what to do."""
    if isinstance(error, socket.gaierror) or error.errno in NO_ADDRESS:
        return "expected a name or address of this machine: choose 127.0.0.1, or 0.0.0.0 for all, with --host"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"expected a port that this user may open: choose one above 1023 with {option}"
    return (
        f"expected a free port of this machine: choose another with {option}, or stop the program that uses "
        f"it"
    )
