"""What is known of one request, from its first byte to its last: for metrics, logs and deadlines."""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope

KEY = "zoo.trace"
"""In the scope of ASGI."""

UNMATCHED = "other"
"""Route of requests that no route takes."""

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


@dataclass
class Trace:
    """One request.

    Args:
        id: of the client's header `X-Request-ID`, or a new one.
        deadline: of `time.monotonic()`.
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
        """Return how long the request has been here."""
        return time.monotonic() - self.began


def start_trace(scope: Scope, timeout: float) -> Trace:
    """Return the trace of a request that has just come, and put it into its scope.

    Args:
        scope: of ASGI.
        timeout: seconds until its deadline.
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
    """Return the template of the route that took a request, e.g. `/models/{name}/card`."""
    return getattr(scope.get("route"), "path", UNMATCHED)


def route_path(scope: Scope) -> str:
    """Return the path of a request below the folder that the app is mounted in."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
