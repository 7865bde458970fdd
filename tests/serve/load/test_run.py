from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from zoo.classes import Classes
from zoo.errors import ZooError
from zoo.predictors.base import Predictor
from zoo.preprocess import Preprocessing
from zoo.serve.load.client import Client
from zoo.serve.load.inputs import drawn
from zoo.serve.load.measurement import Settings
from zoo.serve.load.run import SHARES, TRIES, BareModel, LoadTest, load_test, offered
from zoo.serve.load.target import Asked, find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    MakeServer = Callable[..., Any]
    Start = Callable[..., LoadTest]
    Pixels = np.ndarray[Any, np.dtype[np.uint8]]

SHORT = {"seconds": 0.3, "requests": 10, "search_seconds": 0.2, "search_requests": 20}


class Constant(Predictor):
    """A model that takes a known time."""

    backend = "constant"

    def __init__(self, seconds: float) -> None:
        super().__init__(Classes.of(("background", "disk")), Preprocessing(imgsz=(32, 32)))
        self.seconds = seconds
        self.seen: list[tuple[int, ...]] = []

    def infer(self, images: NDArray[np.uint8], outputs: Sequence[str] = ("mask",)) -> dict[str, NDArray[Any]]:
        assert tuple(outputs) == ("mask",)
        time.sleep(self.seconds)
        self.seen.append(images.shape)
        return {"mask": np.zeros(images.shape[:3], np.uint8)}


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts the parts of a short load test of a server."""
    with ExitStack() as stack:

        def make(server: Any, **changes: Any) -> LoadTest:
            client = stack.enter_context(Client(server.target()))
            return LoadTest(client, Settings(**{**SHORT, **changes}), lambda _: None)

        yield make


@pytest.mark.slow
def test_the_goodput_of_a_known_server_lies_about_its_capacity(
    start: Start, make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.serve.load.run.PRECISION", 0.25)
    test = start(make_server(0.005), bound_ms=60, search_requests=100)
    found = test.search(test.rates([150.0, 400.0]))
    assert found.rate is not None
    assert 30 <= found.rate <= 300  # of 200; among 100 requests a queue hardly grows
    assert found.failing_rate is not None
    assert any(row.holds and row.rate == found.rate for row in test.searched)
    lost = [row for row in test.searched if row.rate == found.failing_rate]
    assert len(lost) == TRIES
    assert not any(row.holds for row in lost)


def test_clients_that_wait_see_service_times_and_their_parts(start: Start, make_server: MakeServer) -> None:
    rows, _ = start(make_server(0.005), clients=(1, 4), seconds=0.5).clients(None, ())
    one, four = rows
    assert one.latency_ms is not None
    assert four.latency_ms is not None
    assert 5 <= one.latency_ms.p50 < 20
    assert 30 < one.answered_per_s < 202
    assert 30 < four.answered_per_s < 210
    assert four.parts_ms["compute"] == pytest.approx(5)
    assert 11 < four.parts_ms["queue"] < 100
    assert sum(four.parts_ms.values()) == pytest.approx(four.latency_ms.mean)
    assert one.received_bytes > 100 * one.requests
    assert len(one.latency_ms.rounds) == 10


def test_the_bare_model_takes_turns_with_the_clients_on_the_same_images(
    start: Start, make_server: MakeServer, pixels: Pixels
) -> None:
    model = Constant(0.003)
    bare = BareModel(Path("model.onnx"), model)
    _, found = start(make_server(0.001), clients=(1,)).clients(bare, (pixels, pixels[:32]))
    assert found is not None
    assert found.backend == "constant"
    assert 3 <= found.end_to_end_ms.p50 < 20
    assert len(found.end_to_end_ms.rounds) == 10
    assert set(model.seen) == {(1, 21, 32, 3), (1, 11, 32, 3)}  # fitted into 32 x 32


def test_the_bare_model_of_tensors_does_not_resize(
    start: Start, make_server: MakeServer, pixels: Pixels
) -> None:
    model = Constant(0.0)
    bare = BareModel(Path("model.onnx"), model)
    start(make_server(), clients=(1,), seconds=0.1, route="oip").clients(bare, (pixels,))
    assert set(model.seen) == {(1, 64, 96, 3)}


def test_a_server_that_fails_now_and_then_has_no_goodput(start: Start, make_server: MakeServer) -> None:
    test = start(make_server(fail_each=8), clients=(2,))
    [row], _ = test.clients(None, ())
    assert row.errors["503"] == pytest.approx(row.requests / 8, rel=0.2)
    assert row.failed + round(row.in_time * row.requests) == row.requests
    assert test.search(test.rates([400.0])).rate is None
    assert len(test.searched) == 4 * TRIES


def test_rates_follow_from_the_best_throughput(start: Start, make_server: MakeServer) -> None:
    [row], _ = start(make_server(0.005), clients=(1,)).clients(None, ())
    best = row.answered_per_s
    assert offered(Settings(), [row]) == pytest.approx([share * best for share in SHARES], rel=0.01)
    assert offered(Settings(rates=(5.0, 2.0)), [row]) == [2, 5]
    with pytest.raises(ZooError, match="increase --seconds, or set --rates"):
        offered(Settings(), [row.model_copy(update={"answered_per_s": 0.0})])


def test_a_server_that_fails_from_the_second_request_on_is_an_error(make_server: MakeServer) -> None:
    server = make_server()
    found = find(Asked(server.url, None, None, "predict", 5.0), drawn((32, 32)))
    server.fail_each = 1
    with pytest.raises(ZooError, match=r"answered none of \d+ requests of the warm-up \(503\)"):
        load_test(found, None, Settings(clients=(1,)), lambda _: None)
