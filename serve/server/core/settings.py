"""Settings of a server: batching, limits, access."""

from __future__ import annotations

import hmac
import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from zoo.api_key import check_key
from zoo.frozen import Frozen
from zoo.predictors.limits import LARGEST, OVERLAP, SMALLEST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoo.predictors.tiles import Tiling

HANG_FACTOR = 2.0
"""Multiple of the request timeout after which a batch, or a worker without a heartbeat, hangs."""

LEAST_HANG_S = 10.0
"""Minimum for short timeouts: an overloaded machine must not look like a hanging one."""

MOST_TIMEOUT_S, MOST_WAIT_MS = 86_400.0, 60_000.0
"""Largest time limit, a day, and largest time that an image waits for others: clocks overflow far above."""

MOST_BODY_MB = 2147.0
"""Largest limit of a body, in 10^6 bytes: gRPC counts the bytes of a message in 32 bits."""

ANY_ORIGIN = "*"

BEARER = b"bearer "

DEFAULT_PORTS = {"http": 80, "https": 443}


def check_origin(text: str) -> str:
    """Return an origin as browsers send it in the header `Origin`, or `*`.

    Raises:
        ValueError: another text.

    Example:
        >>> check_origin("https://Maps.example.com:443/")
        'https://maps.example.com'
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    if text == ANY_ORIGIN:
        return text
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or extra:
        raise ValueError(f"got origin {text[:80]!r}, expected 'https://host', 'http://host:port' or '*'")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if port in (None, DEFAULT_PORTS[parts.scheme]) else f":{port}")


def check_root_path(text: str) -> str:
    """Return a path prefix without its trailing slash.

    Raises:
        ValueError: another text.
    """
    path = text.rstrip("/")
    if path and not re.fullmatch(r"(/(?!\.)[A-Za-z0-9._~-]+)+", path):
        raise ValueError(f"got path prefix {text[:80]!r}, expected one like '/segmentation'")
    return path


def _checked_key(key: SecretStr) -> SecretStr:
    return SecretStr(check_key(key.get_secret_value()))


class ServerSettings(Frozen):
    """The settings of one server, the same for each of its workers.

    Args:
        max_batch: maximum number of images of one size per batch; 1 by default on the CPU, see `on_cpu`.
        max_wait_ms: time that an image waits for others of its size while the model is idle.
        queue: maximum number of waiting images, beyond the running batch; more are refused.
        timeout: time limit of a request in seconds, from its first byte to its response.
        max_body_mb: maximum request body, in 10^6 bytes.
        max_pixels: maximum image size, height x width.
        tile: side in pixels of tiles in which images are predicted at their original size, with blended
            logits; None for whole images at the network's size.
        overlap: share of a tile's side that it shares with the next one.
        api_key: key that requests must send; None requires no key.
        remote: whether to accept requests from other machines without a key.
        cors: origins whose pages may use the server (CORS); `*` for any.
        root_path: path prefix that a proxy leaves on requests; paths without it are accepted too.
        json_logs: whether to log one JSON object per line.
    """

    max_batch: int = Field(8, ge=1)
    max_wait_ms: float = Field(2.0, ge=0, le=MOST_WAIT_MS)
    queue: int = Field(64, ge=1)
    timeout: float = Field(30.0, gt=0, le=MOST_TIMEOUT_S)
    max_body_mb: float = Field(32.0, gt=0, le=MOST_BODY_MB)
    max_pixels: int = Field(40_000_000, ge=1, le=178_956_970)  # Pillow's own limit
    tile: int | None = Field(None, ge=SMALLEST)
    overlap: float = Field(OVERLAP, ge=0, le=LARGEST)
    api_key: Annotated[SecretStr, AfterValidator(_checked_key)] | None = None
    remote: bool = False
    cors: tuple[Annotated[str, AfterValidator(check_origin)], ...] = ()
    root_path: Annotated[str, AfterValidator(check_root_path)] = ""
    json_logs: bool = False

    @property
    def tiling(self) -> Tiling | None:
        """Return how images are cut into tiles, None for whole images."""
        from zoo.predictors.tiles import Tiling

        return None if self.tile is None else Tiling(self.tile, self.overlap)

    @property
    def max_body_bytes(self) -> int:
        """Return the maximum request body in bytes."""
        return int(self.max_body_mb * 1e6)

    @property
    def hang_s(self) -> float:
        """Return the seconds of one batch, or without a heartbeat, after which a worker is replaced."""
        return max(HANG_FACTOR * self.timeout, LEAST_HANG_S)

    def on_cpu(self) -> ServerSettings:
        """Return the settings for a model on the CPU: single images unless `max_batch` is set.

        Batches gain nothing there: on 2 cores ONNX Runtime took 1.5 ms for a single image and 3.0 ms for
        each of 8, OpenVINO 2.8 and 2.6 ms (ELN on MobileNetV3 at 96 x 96, the best of 8 runs).
        """
        return self if "max_batch" in self.model_fields_set else self.model_copy(update={"max_batch": 1})


FIGURES_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of the folder in which several workers combine their metrics."""


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Return whether a host name or address always means this machine.

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


def has_key(headers: Mapping[bytes, bytes], key: bytes) -> bool:
    """Return whether a request has the key, by its headers with lowercase names."""
    authorization = headers.get(b"authorization", b"")
    bearer = authorization[len(BEARER) :].strip() if authorization[: len(BEARER)].lower() == BEARER else b""
    # always compare both, in constant time
    return hmac.compare_digest(bearer, key) | hmac.compare_digest(headers.get(b"x-api-key", b""), key)
