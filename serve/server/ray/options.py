"""What replicas and doors of a server on Ray get, and how they are replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from zoo.frozen import Frozen
from zoo.serve.server.core.settings import ServerSettings

HEALTH_PERIOD_S = 5.0
"""Between two real inferences that tell whether a replica is well."""

SURGE_PERCENT = 25
"""Of new replicas beside the old ones while models are updated; at least one."""

TRIES = 3
"""To start a replica, before a deployment fails."""

DOOR_CPUS = 0.1
DOOR_REQUESTS = 1000
"""That are in a door at once; more wait in the proxy of Ray."""


class Cluster(Frozen):
    """How many replicas, and what each of them gets.

    Args:
        min_replicas: that are always there.
        max_replicas: that there are under load.
        cpus: for each replica; its models use as many threads, at least one.
        gpus: for each replica: 0.5 puts two on one GPU.
        host: where each machine listens.
        port: likewise.
    """

    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    cpus: float = Field(1.0, gt=0)
    gpus: float = Field(0.0, ge=0)
    host: str = "127.0.0.1"
    port: int = 8000

    @model_validator(mode="after")
    def _check_order(self) -> Cluster:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"{self.min_replicas}..{self.max_replicas} replicas: the first is the smaller one"
            )
        return self

    @property
    def threads(self) -> int:
        """Return how many threads of the CPU a model may use."""
        return max(1, int(self.cpus))


class RayArguments(Frozen):
    """What a configuration file of Ray Serve says.

    Args:
        models: paths by name, the same on every machine; requests that name none get the first.
        settings: of the server; `remote` lets in requests from other machines without a key.
        cluster: replicas; its host and port are those of `http_options` in that file.
    """

    models: dict[str, Path] = Field(min_length=1)
    settings: ServerSettings = ServerSettings()
    cluster: Cluster = Cluster()


def door_options(cluster: Cluster, settings: ServerSettings) -> dict[str, Any]:
    """Return the options of the doors: two, where there are replicas to choose from."""
    return {
        "num_replicas": min(2, cluster.max_replicas),
        "ray_actor_options": {"num_cpus": DOOR_CPUS},
        "max_ongoing_requests": DOOR_REQUESTS,
        **_common_options(settings),
    }


def replica_options(cluster: Cluster, settings: ServerSettings) -> dict[str, Any]:
    """Return the options of the replicas.

    A replica has its own queue and answers 503 itself; that of a door, before it, holds as many again.
    """
    at_once = settings.queue + 2 * settings.max_batch
    return {
        "autoscaling_config": {
            "min_replicas": cluster.min_replicas,
            "max_replicas": cluster.max_replicas,
            "target_ongoing_requests": settings.max_batch,
        },
        "ray_actor_options": {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus},
        "max_ongoing_requests": at_once,
        "max_queued_requests": at_once,
        "max_surge_percent": SURGE_PERCENT if _has_room(cluster) else 0,
        **_common_options(settings),
    }


def _common_options(settings: ServerSettings) -> dict[str, Any]:
    return {
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": settings.timeout + 1,
        "graceful_shutdown_wait_loop_s": 0.2,
        "graceful_shutdown_timeout_s": settings.timeout + 1,
        "max_constructor_retry_count": TRIES,
    }


def _has_room(cluster: Cluster) -> bool:
    """Return whether one more replica fits on the cluster now."""
    import ray

    free: dict[str, float] = ray.available_resources()
    return free.get("CPU", 0) >= cluster.cpus and free.get("GPU", 0) >= cluster.gpus
