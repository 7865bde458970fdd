"""A local Ray cluster for the tests of this folder, and clients that ask it all the time."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx2
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

PORT = 8721


@dataclass
class Load:
    """What clients got, each request after the other."""

    image: bytes
    statuses: list[int | str] = field(default_factory=list)
    """Of HTTP, or the name of an error of the connection."""
    versions: list[str] = field(default_factory=list)
    """Of the model, in answers."""

    def ask(self, client: httpx2.Client) -> None:
        try:
            answer = client.post("/predict", params={"format": "json"}, content=self.image)
        except httpx2.HTTPError as error:
            self.statuses.append(type(error).__name__)
            return
        self.statuses.append(answer.status_code)
        if answer.is_success:
            self.versions.append(answer.json()["version"])

    def wait_for(self, count: int, seconds: float = 30) -> None:
        """Return when so many more requests were answered."""
        wanted = len(self.statuses) + count
        until = time.monotonic() + seconds
        while len(self.statuses) < wanted:
            assert time.monotonic() < until, f"{len(self.statuses)} of {wanted} requests"
            time.sleep(0.02)

    @property
    def failed(self) -> list[int | str]:
        return [status for status in self.statuses if status != 200]


@contextmanager
def ask_all_the_time(url: str, image: bytes, clients: int = 4) -> Iterator[Load]:
    """Give what some clients get that ask without a pause until the block ends."""
    load, end = Load(image), threading.Event()

    def keep_asking() -> None:
        with httpx2.Client(base_url=url, timeout=30) as client:
            while not end.is_set():
                load.ask(client)

    threads = [threading.Thread(target=keep_asking, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        end.set()
        for thread in threads:
            thread.join(timeout=40)


@pytest.fixture(scope="session")
def under_load() -> Callable[..., AbstractContextManager[Load]]:
    """Return `ask_all_the_time`."""
    return ask_all_the_time


@pytest.fixture(scope="module")
def ray_url() -> Iterator[str]:
    """Return where the server of a cluster of this machine is to be found; the cluster runs."""
    pytest.importorskip("ray")
    from zoo.serve.server.ray.cluster import connected

    with connected() as is_ours:
        assert is_ours, "a Ray cluster runs already: the tests would change it"
        yield f"http://127.0.0.1:{PORT}"
