"""Prometheus metrics of one worker, or of all.

With `PROMETHEUS_MULTIPROC_DIR` in the environment (set it before this module is imported) each worker writes
its metrics to files in that folder, and any of them returns the metrics of all.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from zoo.serve.server.core.errors import KINDS
from zoo.serve.server.core.settings import FIGURES_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoo.serve.server.core.model import Model
    from zoo.serve.server.core.timing import Trace

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Metrics of one server, an `Observer` of its models. Labels never contain client input.

    Args:
        models: models of the server.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, models: Iterable[Model]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "zoo_requests",
            "Finished requests; status 499: the client disconnected.",
            ["model", "route", "status"],
            registry=self.registry,
        )
        self.errors = Counter("zoo_errors", "Requests that failed.", ["kind"], registry=self.registry)
        self.request_seconds = Histogram(
            "zoo_request_seconds",
            "Time from the headers of a request to the end of its response.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.queue_seconds = self._of_model("zoo_queue_seconds", "Time that images waited.", SECONDS)
        self.compute_seconds = self._of_model("zoo_compute_seconds", "Time that batches ran.", SECONDS)
        self.batch_size = self._of_model("zoo_batch_size", "Images per batch.", SIZES)
        self.queue_length = Gauge(
            "zoo_queue_length",
            "Waiting images.",
            ["model"],
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.model_info = Gauge(
            "zoo_model_info",
            "Served models.",
            ["model", "version", "backend", "description"],
            registry=self.registry,
            multiprocess_mode="max",
        )
        self._models = {model.name: model for model in models}
        for model in self._models.values():
            self._add(model)

    def batch(self, model: str, size: int, compute_s: float) -> None:
        """Count a batch."""
        self.batch_size.labels(model).observe(size)
        self.compute_seconds.labels(model).observe(compute_s)
        self._look_at_queue(model)

    def waited(self, model: str, seconds: float) -> None:
        """Count an image that has run."""
        self.queue_seconds.labels(model).observe(seconds)

    def request(self, trace: Trace, route: str) -> None:
        """Count a finished request."""
        self.requests.labels(trace.model, route, str(trace.status)).inc()
        self.request_seconds.labels(route).observe(trace.seconds)
        if trace.status >= 400:
            self.errors.labels(KINDS.get(trace.status, "other")).inc()

    def render(self) -> bytes:
        """Return the metrics of all workers in Prometheus' text format."""
        for model in self._models:
            self._look_at_queue(model)
        if FIGURES_VARIABLE not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)

    def _add(self, model: Model) -> None:
        self.model_info.labels(model.name, model.version, model.backend, model.description).set(1)
        self.queue_length.labels(model.name).set(0)
        model.observer = self

    def _look_at_queue(self, model: str) -> None:
        self.queue_length.labels(model).set(self._models[model].waiting)

    def _of_model(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ["model"], buckets=buckets, registry=self.registry)
