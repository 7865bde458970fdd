"""What all routes share: the models, the settings, the threads that decode and encode, the memory in use."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from zoo.serve.server.core.admission import Budget
from zoo.serve.server.core.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoo.serve.server.core.model import Model
    from zoo.serve.server.core.settings import ServerSettings


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
        self.budget = Budget(LARGEST_AT_ONCE * (settings.max_body_bytes + 3 * settings.max_pixels))
        self._pool = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="codec")

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
        """Start the models that are not started, one after the other.

        Raises:
            Exception: what a backend raised; those that started are stopped.
        """
        try:
            for model in self.models.values():
                await model.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Let the models finish what they have."""
        await asyncio.gather(*(model.stop() for model in self.models.values()))
        self._pool.shutdown(wait=False, cancel_futures=True)
