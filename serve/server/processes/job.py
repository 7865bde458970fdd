"""Messages between parent and workers, without heavy imports, for the parent."""

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
"""Maximum pending connections until a worker accepts them."""

BEAT_S = 1.0
"""Seconds between the heartbeats of a worker."""

GRACE_S = 2
"""Seconds that a worker has to end, beyond the request timeout."""


class Certificate(NamedTuple):
    """TLS files."""

    certfile: Path
    keyfile: Path | None = None


class Job(NamedTuple):
    """Task of a worker."""

    models: tuple[ModelSource, ...]
    settings: ServerSettings
    certificate: Certificate | None = None
    grpc: str | None = None
    """`host:port` on which gRPC listens; None for no gRPC."""
    load: LoadModel | None = None
    """Importable function that loads each model; None for `zoo.serve.server.core.loading`."""


class Served(NamedTuple):
    """Description of a model that a worker has loaded."""

    name: str
    backend: str
    description: str
    reason: str
    path: str
    max_batch: int


class Message(NamedTuple):
    """Message of a worker to its parent: the outcome of its start, then heartbeats until it fails."""

    kind: Literal["ready", "failed", "alive", "hangs", "fails"]
    models: tuple[Served, ...] = ()
    error: str = ""
