"""What all routes share: models, settings, metrics, threads that decode and encode, the memory in use."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from zoo.machine import cores
from zoo.serve.server.core.admission import Budget
from zoo.serve.server.core.errors import ModelFailedError, NotReadyError, UnknownNameError
from zoo.serve.server.core.metrics import Metrics
from zoo.serve.server.core.readiness import Readiness

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoo.serve.server.core.model import Model
    from zoo.serve.server.core.settings import ServerSettings

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

LARGEST_AT_ONCE = 16
"""Bodies and decoded images may take as much memory as this many requests of the largest size."""


class Context:
    """State that all routes of an app share.

    Args:
        models: at least one, of different names; the first is the default.
        settings: settings of the server.
    """

    def __init__(self, models: Sequence[Model], settings: ServerSettings) -> None:
        self.models = {model.name: model for model in models}
        if not models or len(self.models) < len(models):
            raise ValueError(
                f"got models {[model.name for model in models]}, expected some of different names"
            )
        self.settings = settings
        self.metrics = Metrics(models)
        self.readiness = Readiness(self)
        pixel = max(model.preprocessing.format.pixel_bytes for model in models)
        self.budget = Budget(LARGEST_AT_ONCE * (settings.max_body_bytes + pixel * settings.max_pixels))
        self.draining: asyncio.Task[None] | None = None
        """Requests of another protocol, which end before the models stop."""
        self._pool = ThreadPoolExecutor(max_workers=cores(), thread_name_prefix="codec")
        self._starting: asyncio.Task[None] | None = None
        self._started = self._stopped = False

    def model(self, name: str | None = None, version: str | None = None) -> Model:
        """Return a model by name, or the first.

        Raises:
            UnknownNameError: no such model, or not of this version.
        """
        found = next(iter(self.models.values())) if name is None else self.models.get(name)
        if found is None:
            raise UnknownNameError(
                f"got model {str(name)[:50]!r}, expected one of {', '.join(self.models)}: see /models"
            )
        if version not in (None, found.version):
            raise UnknownNameError(
                f"got version {str(version)[:50]!r} of {found.name}, expected {found.version}: ask for that"
            )
        return found

    async def in_pool(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a function returns in one of the threads, one for each core."""
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def start(self) -> None:
        """Start the models that are not started, one after the other; once is enough.

        Raises:
            NotReadyError: they were stopped.
            ModelFailedError: a backend failed; the next call tries again.
        """
        if self._started:
            return
        if self._stopped:
            raise NotReadyError("the server has stopped: try again in 1 s")
        if self._starting is None or self._starting.done():  # after a failure
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)  # the caller's client may disconnect

    async def _start(self) -> None:
        for model in self.models.values():
            try:
                await model.start()
            except Exception as error:
                log.error("%s cannot be started", model.name, exc_info=error)
                raise ModelFailedError(f"{model.name} cannot be started: see the server's log") from error
        self._started = True

    async def stop(self) -> None:
        """Let the models finish what they have."""
        if self.draining is not None:
            await self.draining
        self._started, self._stopped = False, True
        await asyncio.gather(*(model.stop() for model in self.models.values()))
        self._pool.shutdown(wait=False, cancel_futures=True)
