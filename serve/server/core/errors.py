"""What can go wrong with a request beside a bad image (`zoo.errors.InvalidImageError`)."""

from __future__ import annotations

from zoo.errors import ZooError


class QueueFullError(ZooError):
    """A request that is refused because too many wait already (503).

    Args:
        message: one line.
        retry_after_s: when there may be room, in whole seconds.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineError(ZooError):
    """A request whose answer did not come in time (504)."""


class ModelFailedError(ZooError):
    """An image that the model failed on (500); the log has the traceback, the message no paths."""


class TooLargeError(ZooError):
    """A body, image or batch over the limit (413)."""


class UnsupportedFormatError(ZooError):
    """Bytes of a format that is not taken (415)."""


class UnknownNameError(ZooError):
    """A model, version or card that this server does not have (404)."""


class BadRequestError(ZooError):
    """A request that is not what its route takes (400)."""


class SlowBodyError(ZooError):
    """A body that did not come in time (408)."""


class NotReadyError(ZooError):
    """A model that does not answer (503)."""
