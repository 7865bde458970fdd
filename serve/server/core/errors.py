"""Errors of requests, besides a bad image (`zoo.errors.InvalidImageError`)."""

from __future__ import annotations

from zoo.errors import ZooError


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
