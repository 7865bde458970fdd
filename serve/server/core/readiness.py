"""Readiness of the models, by a real inference of each."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from zoo.errors import ZooError
from zoo.serve.server.core.errors import NotReadyError

if TYPE_CHECKING:
    from zoo.serve.server.core.context import Context
    from zoo.serve.server.core.model import Model

log = logging.getLogger(__name__)

CACHED_S = 1.0
"""Seconds for which the outcome of a probe is cached, so that probes cause no load."""


class Readiness:
    """Readiness of all models, checked at most once per `CACHED_S`.

    Args:
        context: context with the models.
    """

    def __init__(self, context: Context) -> None:
        self.models = tuple(context.models.values())
        self._context = context
        self._lock = asyncio.Lock()
        self._asked = float("-inf")
        self._error: NotReadyError | None = None

    async def check(self) -> None:
        """Check that every model responds, or did within the last `CACHED_S`.

        Raises:
            NotReadyError: a model does not.
        """
        async with self._lock:
            if time.monotonic() - self._asked > CACHED_S:
                self._error = await self._ask()
                self._asked = time.monotonic()
        if self._error is not None:
            raise NotReadyError(str(self._error))

    async def check_started(self, model: Model) -> None:
        """Check that a model is started and does not fail again and again.

        Raises:
            NotReadyError: it is not.
            ModelFailedError: a backend cannot be started.
        """
        await self._context.start()
        if not model.ready:
            raise NotReadyError(_why_not_ready(model))

    async def _ask(self) -> NotReadyError | None:
        try:
            await self._context.start()
        except ZooError as error:
            return NotReadyError(str(error))
        errors = await asyncio.gather(*map(_probe, self.models))
        return next((error for error in errors if error), None)


async def _probe(model: Model) -> NotReadyError | None:
    if not model.ready:
        return NotReadyError(_why_not_ready(model))
    try:
        await model.probe()
    except ZooError as error:
        log.warning("probe of %s: %s", model.name, error)
        return NotReadyError(f"{model.name} failed on a blank image: see the server's log")
    return None


def _why_not_ready(model: Model) -> str:
    """Return a line about a model that is not ready."""
    if model.failing:
        return f"{model.name} failed on all recent images: see the server's log"
    return f"{model.name} is not ready, expected it to be started: try again in 1 s"
