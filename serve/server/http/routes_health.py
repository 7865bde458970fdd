"""Health routes: liveness, and readiness by a real inference of every model."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from zoo.errors import ZooError
from zoo.serve.server.core.errors import NotReadyError
from zoo.serve.server.http.problems import responses
from zoo.serve.server.http.schemas import Liveness, Ready

if TYPE_CHECKING:
    from fastapi import FastAPI

    from zoo.serve.server.core.model import Model
    from zoo.serve.server.http.context import Context

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

    async def _ask(self) -> NotReadyError | None:
        try:
            await self._context.start()
        except ZooError as error:
            return NotReadyError(str(error))
        errors = await asyncio.gather(*map(_probe, self.models))
        return next((error for error in errors if error), None)


async def _probe(model: Model) -> NotReadyError | None:
    if not model.ready:
        return NotReadyError(why_not_ready(model))
    try:
        await model.probe()
    except ZooError as error:
        log.warning("probe of %s: %s", model.name, error)
        return NotReadyError(f"{model.name} failed on a blank image: see the server's log")
    return None


def why_not_ready(model: Model) -> str:
    """Return a line about a model that is not ready."""
    if model.failing:
        return f"{model.name} failed on all recent images: see the server's log"
    return f"{model.name} is not ready, expected it to be started: try again in 1 s"


def add_health_routes(app: FastAPI, readiness: Readiness) -> None:
    """Add the routes of probes."""

    @app.get("/healthz", tags=["health"], summary="The process is alive")
    async def healthz() -> Liveness:
        return Liveness()

    @app.get(
        "/readyz",
        tags=["health"],
        summary="Every model has just passed a real inference",
        responses=responses(503),
    )
    async def readyz() -> Ready:
        await readiness.check()
        return Ready(models=[model.name for model in readiness.models])
