"""Deployment of the app of `zoo serve` on Ray Serve: replicas on many machines behind one address on each.

A replica loads its models from paths that must be the same on every machine: a shared folder, or one in the
container image. Ray Serve scales the replicas with the load, replaces those that die or fail a real
inference, and rolls out updates of the models replica by replica.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from zoo.api_key import key_of_environment
from zoo.errors import ZooError
from zoo.serve.server.processes.job import Served
from zoo.serve.server.ray.cluster import check_installed, connected, ending

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray.serve import Application

    from zoo.serve.server.core.loading import ModelSource
    from zoo.serve.server.processes.job import Job
    from zoo.serve.server.ray.options import Cluster
    from zoo.serve.server.ray.proxy import Answer, Request

    WhenReady = Callable[[tuple[Served, ...]], None]

APP = "zoo"
"""Name of the application on the cluster; deploying it again is an update."""

QUIET = {"log_level": "WARNING", "enable_access_log": False}
"""Logging options of Ray Serve; the app has its own log."""


class Replica:
    """Replica of the app, in its own actor.

    Args:
        job: models and settings of the app.
        versions: deployed versions by model name, so that responses show a rolling update.
    """

    async def __init__(self, job: Job, versions: dict[str, str]) -> None:  # type: ignore[misc] # Ray awaits it
        from zoo.serve.server.http.app import create_app
        from zoo.serve.server.processes.worker import load_models

        self._models = load_models(job)
        for model in self._models:
            model.version = versions[model.name]
        self._app = create_app(self._models, job.settings)
        self._lifespan = self._app.router.lifespan_context(self._app)
        await self._lifespan.__aenter__()

    async def __del__(self) -> None:
        await self._lifespan.__aexit__(None, None, None)

    async def answer(self, request: Request) -> Answer:
        """Return the app's response."""
        from zoo.serve.server.ray.proxy import answer_of

        return await answer_of(self._app, request)

    async def check_health(self) -> None:
        """Run a real inference of every model; Ray Serve replaces the replica if that fails."""
        await asyncio.gather(*(model.probe() for model in self._models))

    async def served(self) -> tuple[Served, ...]:
        """Return the descriptions of the models."""
        return tuple(
            Served(model.name, model.backend, model.description, model.reason, model.path, model.max_batch)
            for model in self._models
        )


def serve_on_ray(job: Job, cluster: Cluster, when_ready: WhenReady) -> None:
    """Deploy on the running Ray cluster and return; without one, run a local one until SIGTERM or SIGINT.

    Args:
        job: models and settings of the server.
        cluster: replicas and their resources.
        when_ready: called when every replica has passed a real inference.

    Raises:
        ZooError: Ray is not installed, or the models cannot be deployed.
    """
    check_installed()
    with connected() as is_ours, ending() as end:
        when_ready(deploy(job, cluster))
        if is_ours:
            end.wait()


def deploy(job: Job, cluster: Cluster) -> tuple[Served, ...]:
    """Deploy the app, or roll out an update, on the connected cluster.

    No request fails during an update: old replicas finish their requests. If the cluster has room for another
    replica, new ones are ready before old ones stop; otherwise they are replaced one at a time.

    Returns:
        Descriptions of the models, after every replica has passed a real inference.

    Raises:
        ZooError: the models cannot be deployed; a previous deployment remains.
    """
    from ray import serve
    from ray.exceptions import RayError

    options = {"host": cluster.host, "port": cluster.port, "request_timeout_s": job.settings.timeout + 1}
    if job.certificate is not None:
        files = {"ssl_certfile": job.certificate.certfile, "ssl_keyfile": job.certificate.keyfile}
        options |= {name: str(path) for name, path in files.items() if path is not None}
    try:
        serve.start(http_options=options, logging_config=QUIET)
    except (RayError, TimeoutError) as error:
        last = str(error).strip().rpartition("\n")[2]
        raise ZooError(
            f"Ray Serve's proxy does not start on {cluster.host}:{cluster.port}, expected a response: choose "
            f"another --port if that one is in use, or try again when the machine is less busy: {last}"
        ) from error
    try:
        handle = serve.run(application(job, cluster), name=APP, route_prefix="/", logging_config=QUIET)
    except RuntimeError as error:
        raise ZooError(
            f"the models cannot be deployed on Ray, expected {_paths(job.models)} to be a model on every "
            f"machine of the cluster: {_cause()}"
        ) from error
    try:
        served: tuple[Served, ...] = handle.served.remote().result(timeout_s=job.settings.timeout)
    except TimeoutError as error:
        raise ZooError(
            f"the models are deployed but do not respond within {job.settings.timeout:g} s: see `ray status` "
            f"and `serve status`"
        ) from error
    return served


def application(job: Job, cluster: Cluster) -> Application:
    """Return the Ray Serve application: proxies, and replicas behind them."""
    from ray import serve

    from zoo.serve.server.core.loading import fingerprint
    from zoo.serve.server.ray.options import door_options, replica_options
    from zoo.serve.server.ray.proxy import AccessProxy

    sources = (source._replace(threads=source.threads or cluster.threads) for source in job.models)
    versions = {source.name: fingerprint(source.path) for source in job.models}
    replicas = serve.deployment(Replica, name="Replica", **replica_options(cluster, job.settings))
    door = serve.deployment(
        serve.ingress()(AccessProxy), name="AccessProxy", **door_options(cluster, job.settings)
    )
    bound: Application = door.bind(job.settings, replicas.bind(job._replace(models=tuple(sources)), versions))
    return bound


def build(arguments: dict[str, Any]) -> Application:
    """Return the Ray Serve application of a config file: `import_path: zoo.serve.server.ray.deploy:build`.

    Args:
        arguments: fields of `RayArguments`; the API key comes from the environment, `ZOO_API_KEY`.
    """
    from zoo.serve.server.core.loading import ModelSource
    from zoo.serve.server.processes.job import Job
    from zoo.serve.server.ray.options import RayArguments

    given = RayArguments.model_validate(arguments)
    settings = given.settings
    if settings.api_key is None and (key := key_of_environment()):
        settings = settings.model_copy(update={"api_key": SecretStr(key)})
    sources = (ModelSource(name, path) for name, path in given.models.items())
    return application(Job(tuple(sources), settings), given.cluster)


def _cause() -> str:
    """Return the last line of Ray Serve's status message."""
    from ray import serve

    found = serve.status().applications.get(APP)
    told = [
        line.strip()
        for deployment in (found.deployments.values() if found else ())
        for line in deployment.message.splitlines()
        if "Error" in line
    ]
    return told[-1] if told else "see its log"


def _paths(sources: tuple[ModelSource, ...]) -> str:
    return ", ".join(str(source.path) for source in sources)
