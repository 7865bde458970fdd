"""Errors of requests, besides a bad image (`zoo.errors.InvalidImageError`), and their statuses.

A status is that of HTTP; metrics and logs count by it, and gRPC translates it.
"""

from __future__ import annotations

from typing import NamedTuple

from zoo.errors import InvalidImageError, ZooError


class QueueFullError(ZooError):
    """The queue is full (503).

    Args:
        message: one-line message.
        retry_after_s: whole seconds until a retry may succeed.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineError(ZooError):
    """The result is late (504)."""


class ModelFailedError(ZooError):
    """The model failed on an image (500); the log has the traceback, the message has no paths."""


class TooLargeError(ZooError):
    """A body, image or batch exceeds its limit (413)."""


class UnsupportedFormatError(ZooError):
    """The body has an unsupported format (415)."""


class UnknownNameError(ZooError):
    """The server does not have the model, version or card (404)."""


class BadRequestError(ZooError):
    """The request does not fit its route (400)."""


class SlowBodyError(ZooError):
    """The body is late (408)."""


class NotReadyError(ZooError):
    """A model does not respond (503)."""


class UnknownMethodError(ZooError):
    """The server does not have the method (405)."""


class NoKeyError(ZooError):
    """The request has no key, or a wrong one (401)."""

    def __init__(self) -> None:
        super().__init__(
            "got no key or a wrong one: send the header 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
        )


class ForeignError(ZooError):
    """The request comes from elsewhere, and the server has no key (403)."""


CLIENT_GONE = 499
"""Status in metrics and logs of a request whose client disconnected; it is never sent."""

FOREIGN = "requests from other machines need a key: start the server with --api-key, or with --host for all"

INTERNAL = "the server failed on this request: see its log; try again, then report it"

KINDS: dict[int, str] = {
    400: "invalid",
    401: "key",
    403: "remote",
    404: "unknown",
    405: "method",
    408: "slow",
    413: "too-large",
    415: "format",
    422: "parameters",
    CLIENT_GONE: "gone",
    500: "failed",
    503: "full",
    504: "deadline",
}
"""Short name of each status in metrics."""

STATUS_OF: dict[type[ZooError], int] = {
    InvalidImageError: 400,
    BadRequestError: 400,
    NoKeyError: 401,
    ForeignError: 403,
    UnknownNameError: 404,
    UnknownMethodError: 405,
    SlowBodyError: 408,
    TooLargeError: 413,
    UnsupportedFormatError: 415,
    ModelFailedError: 500,
    QueueFullError: 503,
    NotReadyError: 503,
    DeadlineError: 504,
}


class Fault(NamedTuple):
    """What a client is told of an error."""

    status: int
    detail: str
    """One line without paths of this machine."""
    retry_after_s: int | None = None
    """Whole seconds until a retry may succeed; None if none will."""


def fault_of(error: ZooError) -> Fault:
    """Return what a client is told of an error."""
    status = next((STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), 500)
    # errors without their own status are internal and may name files
    detail = " ".join(str(error).split()) if type(error) in STATUS_OF or status != 500 else INTERNAL
    return Fault(status, detail, getattr(error, "retry_after_s", 1) if status == 503 else None)
