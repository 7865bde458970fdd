"""Options of the replicas and proxies of a server on Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from zoo.frozen import Frozen
from zoo.serve.server.core.settings import ServerSettings

HEALTH_PERIOD_S = 5.0
"""Seconds between the health checks of a replica, which are real inferences."""

SURGE_PERCENT = 25
"""Percentage of additional replicas during an update, at least one."""

TRIES = 3
"""Attempts to start a replica before a deployment fails."""

DOOR_CPUS = 0.1
DOOR_REQUESTS = 1000
"""Maximum concurrent requests of a proxy; more wait in Ray's own proxy."""


class Cluster(Frozen):
    """Number of replicas, and their resources.

    Args:
        min_replicas: minimum number of replicas.
        max_replicas: maximum number of replicas, under load.
        cpus: CPU cores per replica; its models use as many threads, at least one.
        gpus: GPUs per replica; 0.5 places two on one GPU.
        host: address on which each machine listens.
        port: port on which each machine listens.
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
        """Return the number of CPU threads of a model."""
        return max(1, int(self.cpus))


class RayArguments(Frozen):
    """Arguments in a configuration file of Ray Serve.

    Args:
        models: paths by model name, the same on every machine; requests that name none get the first.
        settings: settings of the server; `remote` accepts other machines without a key.
        cluster: replicas; host and port are those of `http_options` in that file.
    """

    models: dict[str, Path] = Field(min_length=1)
    settings: ServerSettings = ServerSettings()
    cluster: Cluster = Cluster()


def door_options(cluster: Cluster, settings: ServerSettings) -> dict[str, Any]:
    """Return the options of the proxies; there are two if there can be several replicas."""
    return {
        "num_replicas": min(2, cluster.max_replicas),
        "ray_actor_options": {"num_cpus": DOOR_CPUS},
        "max_ongoing_requests": DOOR_REQUESTS,
        **_common_options(settings),
    }


def replica_options(cluster: Cluster, settings: ServerSettings) -> dict[str, Any]:
    """Return the options of the replicas.

    A replica has its own queue and responds with 503 itself; the queue of a proxy holds as many again.
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
    """Return whether the cluster has room for one more replica."""
    import ray

    free: dict[str, float] = ray.available_resources()
    return free.get("CPU", 0) >= cluster.cpus and free.get("GPU", 0) >= cluster.gpus
