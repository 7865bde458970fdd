"""What parent and workers tell each other; light, for the parent loads nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.serve.server.core.loading import ModelSource
    from zoo.serve.server.core.model import Model
    from zoo.serve.server.core.settings import ServerSettings

    LoadModel = Callable[[ModelSource, ServerSettings], Model]


BACKLOG = 2048
"""Connections that the system keeps until a worker takes them."""

BEAT_S = 1.0
"""Between two words of a worker that lives."""

GRACE_S = 2
"""Beyond the timeout of a request, for a worker to end."""


class Certificate(NamedTuple):
    """Files of TLS."""

    certfile: Path
    keyfile: Path | None = None


class Job(NamedTuple):
    """What a worker is to do."""

    models: tuple[ModelSource, ...]
    settings: ServerSettings
    certificate: Certificate | None = None
    load: LoadModel | None = None
    """What loads each model, a function that workers can import; None for `zoo.serve.server.core.loading`."""


class Served(NamedTuple):
    """What a worker tells of a model that it has loaded."""

    name: str
    backend: str
    description: str
    reason: str
    path: str
    max_batch: int


class Message(NamedTuple):
    """What a worker tells its parent: how its start ended, then that it lives until it does not serve."""

    kind: Literal["ready", "failed", "alive", "hangs", "fails"]
    models: tuple[Served, ...] = ()
    error: str = ""
