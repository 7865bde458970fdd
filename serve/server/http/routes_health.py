"""Health routes: liveness, and readiness by a real inference of every model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.serve.server.http.problems import responses
from zoo.serve.server.http.schemas import Liveness, Ready

if TYPE_CHECKING:
    from fastapi import FastAPI

    from zoo.serve.server.core.readiness import Readiness


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
