"""What a server is told: how it batches, what it refuses, who may ask."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from pydantic import Field, SecretStr

from zoo.frozen import Frozen

API_KEY_VARIABLE = "ZOO_API_KEY"
"""Of the environment."""

HANG_FACTOR = 2.0
"""Timeouts of a request after which a batch that still runs, or a worker that says nothing, hangs."""

LEAST_HANG_S = 10.0
"""However short the timeout: a machine that has too much to do must not look like one that hangs."""


class ServerSettings(Frozen):
    """The settings of one server, the same for each of its workers.

    Args:
        max_batch: images of one network size that run together; on the CPU 1 if not given, see `on_cpu`.
        max_wait_ms: how long an image waits for others of its size while the model is free.
        queue: images that wait for a model, beyond the batch that runs; more are refused.
        timeout: seconds that a request may take from its first byte to its answer.
        max_body_mb: largest body of a request, in 10^6 bytes.
        max_pixels: largest image, height x width.
        api_key: that requests must carry; None lets all in.
        remote: whether requests from outside this machine are let in without a key.
        json_logs: whether each line of the log is a JSON object.
    """

    max_batch: int = Field(8, ge=1)
    max_wait_ms: float = Field(2.0, ge=0)
    queue: int = Field(64, ge=1)
    timeout: float = Field(30.0, gt=0)
    max_body_mb: float = Field(32.0, gt=0)
    max_pixels: int = Field(40_000_000, ge=1, le=178_956_970)  # Pillow opens none that is larger
    api_key: SecretStr | None = None
    remote: bool = False
    json_logs: bool = False

    @property
    def max_body_bytes(self) -> int:
        """Return the largest body of a request, in bytes."""
        return int(self.max_body_mb * 1e6)

    @property
    def hang_s(self) -> float:
        """Return after how many seconds of one batch, or of silence, a worker is replaced."""
        return max(HANG_FACTOR * self.timeout, LEAST_HANG_S)

    def on_cpu(self) -> ServerSettings:
        """Return the settings for a model that runs on the CPU: single images, if nothing else was asked for.

        A batch gains nothing there: on 2 cores ONNX Runtime took 1.5 ms for an image alone and 3.0 ms for
        each of 8, OpenVINO 2.8 and 2.6 ms (ELN on MobileNetV3 at 96 x 96, the best of 8 runs).
        """
        return self if "max_batch" in self.model_fields_set else self.model_copy(update={"max_batch": 1})


FIGURES_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Of the environment: the folder in which several workers add up what they measure."""


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Return whether a name or address can only mean this machine.

    Example:
        >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "localhost.example.com")]
        [True, True, True, False]
    """
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
