"""Trace of one request, from its first byte to its last, for metrics, logs and deadlines."""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope

KEY = "zoo.trace"
"""Key of the trace in the ASGI scope."""

UNMATCHED = "other"
"""Route name of requests that match no route."""

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


@dataclass
class Trace:
    """Trace of one request.

    Args:
        id: request id, from the client's header `X-Request-ID` or new.
        deadline: deadline, in the time of `time.monotonic()`.
    """

    id: str
    deadline: float
    began: float = field(default_factory=time.monotonic)
    model: str = ""
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    @property
    def seconds(self) -> float:
        """Return the seconds since the first byte."""
        return time.monotonic() - self.began


def start_trace(scope: Scope, timeout: float) -> Trace:
    """Return the trace of a new request, and store it in its scope.

    Args:
        scope: ASGI scope.
        timeout: seconds until the deadline.
    """
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    id_ = given.decode("ascii") if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(64):016x}"
    trace = Trace(id_, time.monotonic() + timeout)
    scope[KEY] = trace
    return trace


def trace_of(scope: Scope) -> Trace:
    """Return the trace of a request."""
    trace: Trace = scope[KEY]
    return trace


def route_of(scope: Scope) -> str:
    """Return the template of a request's route, e.g. `/models/{name}/card`."""
    return getattr(scope.get("route"), "path", UNMATCHED)


def route_path(scope: Scope) -> str:
    """Return the path of a request below the app's mount point."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
