"""HTTP client for a running server, with retries and one-line errors."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import httpx2

from zoo.api_key import KEY_VARIABLE, key_of_environment
from zoo.errors import BundleError, InvalidImageError, ZooError

PATIENCE_S = 60.0
"""Shortest time limit of a response."""

CONNECT_S = 10.0
TRIES = 5
"""Number of attempts if the server is overloaded or drops the connection."""

MAX_WAIT_S = 30.0
"""Longest wait between two attempts, regardless of Retry-After."""

IMAGE_FAULTS = (400, 413, 415)
"""Statuses by which the server rejects a single image."""


class ServerError(ZooError):
    """A server that cannot be used: unreachable, not `zoo serve`, or not authorized."""


class NotFoundError(ServerError):
    """An address at which nothing responds like `zoo serve`."""


class Address(NamedTuple):
    """Address of a served model."""

    server: str
    """`http://host:port`, with a path prefix if a proxy adds one."""
    model: str | None
    """None for the server's first model."""


class Connection:
    """A client of one server.

    Args:
        server: `http://host:port[/PREFIX]`.
        key: API key; None for that in the environment variable `ZOO_API_KEY`, if it is set.
        patience: time limit of a response, in seconds.

    Raises:
        ZooError: a key that no header can hold.
    """

    def __init__(self, server: str, key: str | None = None, patience: float = PATIENCE_S) -> None:
        self.server = server
        self.patience = patience
        key = key or key_of_environment()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._given_up = threading.Event()
        timeout = httpx2.Timeout(patience, connect=CONNECT_S)
        self._client = httpx2.Client(base_url=server, headers=headers, timeout=timeout)

    def send(self, method: str, path: str, **content: Any) -> httpx2.Response:
        """Return the response of the server, after retries if necessary.

        Args:
            method: HTTP method.
            path: path with a leading slash.
            content: further arguments of `httpx2.Client.request`.

        Raises:
            InvalidImageError: the server rejects the image.
            BundleError: the model fails on the image.
            ServerError: the server does not respond, or rejects the request.
        """
        for left in reversed(range(TRIES)):
            try:
                answer = self._client.request(method, path, **content)
            except (httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError) as error:
                if not left:
                    raise self._lost(error) from error
                self._wait(1.0)  # a worker that died is replaced
                continue
            except (httpx2.TransportError, httpx2.DecodingError) as error:
                raise self._lost(error) from error
            if answer.status_code != 503 or not left:
                break
            self._wait(retry_after(answer))
        if answer.status_code != 200:
            raise self._refusal(answer)
        return answer

    def give_up(self) -> None:
        """Stop the retries of all threads."""
        self._given_up.set()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def strange(self, path: str, what: str) -> NotFoundError:
        """Return the error for a response that `zoo serve` would not send.

        Args:
            path: requested path.
            what: problem with the response.
        """
        return NotFoundError(
            f"{self.server}{path} does not respond like zoo serve ({' '.join(what.split())[:200]}): check "
            f"host and port"
        )

    def _wait(self, seconds: float) -> None:
        if self._given_up.wait(seconds):
            raise ServerError(f"{self.server} gets no more requests: the command was stopped")

    def _lost(self, error: Exception) -> ServerError:
        if isinstance(error, httpx2.ReadTimeout):
            return ServerError(f"{self.server} did not respond in {self.patience:.0f} s: is it overloaded?")
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
            return ServerError(
                f"{self.server} cannot be reached ({error}): start it with zoo serve, or check host and port"
            )
        return ServerError(
            f"{self.server} closed the connection ({error or type(error).__name__}): see its log, and "
            "whether it is http "
            f"or https"
        )

    def _refusal(self, answer: httpx2.Response) -> ZooError:
        """Return the error for a response whose status is not 200."""
        status, detail, server = answer.status_code, detail_of(answer), self.server
        if status in IMAGE_FAULTS:
            return InvalidImageError(f"{server} refused the image: {detail}")
        if status == 500:
            return BundleError(f"the model failed on {server}: {detail}")
        if status == 401:
            return ServerError(f"{server} needs an API key ({detail}): set {KEY_VARIABLE}")
        if status == 503:
            return ServerError(f"{server} is still full after {TRIES} tries ({detail}): try again later")
        if status == 404 and "application/problem+json" not in answer.headers.get("content-type", ""):
            prefix = httpx2.URL(server).path.rstrip("/")
            return self.strange(answer.request.url.path.removeprefix(prefix), "404")
        kind = NotFoundError if status == 404 else ServerError
        return kind(f"{server} answered {status}: {detail}")


def parse_addresses(url: str) -> list[Address]:
    """Return the addresses that a URL may mean, in the order of trial.

    The last part of a path belongs to the prefix of the server or is the name of a model.

    Raises:
        ServerError: a URL that is not of the form `http://host:port[/PREFIX][/NAME]`.
    """
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ServerError(f"{url} is not a URL ({error}), expected http://host:port") from error
    path = parsed.path.rstrip("/")
    is_server = parsed.scheme in ("http", "https") and parsed.host
    if not is_server or "//" in path or parsed.query or parsed.fragment or parsed.userinfo:
        raise ServerError(
            f"{url} is not the address of a server, expected http://host:port or http://host:port/NAME"
        )
    root = f"{parsed.scheme}://{parsed.netloc.decode()}"
    prefix, _, name = path.rpartition("/")
    return [Address(root + path, None), *([Address(root + prefix, name)] if name else [])]


def retry_after(answer: httpx2.Response) -> float:
    """Return the seconds to wait before the next attempt."""
    text = answer.headers.get("retry-after", "1")
    return min(float(text), MAX_WAIT_S) if text.isdecimal() else 1.0


def detail_of(answer: httpx2.Response) -> str:
    """Return the error message in a response, as one line."""
    try:
        said = answer.json()
        text = str(said.get("detail") or said.get("error") or said.get("title"))
    except (ValueError, AttributeError):
        text = answer.reason_phrase
    return " ".join(text.split())[:300]
