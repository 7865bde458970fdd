from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from zoo.serve.bench.timing import Budget
from zoo.serve.load.client import Client, run
from zoo.serve.load.http import parse_address, request
from zoo.serve.load.loops import MAX_CONNECTIONS, Limit, Target, closed_loop, open_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.serve.load.loops import Observed

    MakeServer = Callable[..., "object"]

NOBODY = "http://127.0.0.1:9"


def seconds(observed: Observed) -> np.ndarray:
    return np.array([sample.seconds for sample in observed.samples])


def test_one_client_gets_an_answer_each_service_time(make_server: MakeServer) -> None:
    server = make_server(0.01)
    observed = run(closed_loop(server.target(), 1, Budget(0.6, 10)))
    assert 20 < observed.answered / observed.seconds <= 102
    assert 0.010 <= np.median(seconds(observed)) < 0.03


def test_eight_clients_share_one_server_and_wait_for_each_other(make_server: MakeServer) -> None:
    server = make_server(0.01)
    observed = run(closed_loop(server.target(), 8, Budget(0.6, 10)))
    assert 20 < observed.answered / observed.seconds <= 105  # no more than one client
    assert 0.07 < np.median(seconds(observed)) < 0.3
    assert observed.connections == 8


def test_the_closed_loop_lasts_for_both_the_seconds_and_the_requests(make_server: MakeServer) -> None:
    server = make_server()
    assert len(run(closed_loop(server.target(), 2, Budget(0.0, 37))).samples) >= 37
    assert run(closed_loop(server.target(), 2, Budget(0.2, 1))).seconds >= 0.2


def test_arrivals_at_half_the_capacity_wait_as_queueing_theory_says(make_server: MakeServer) -> None:
    service = 0.01
    observed = run(open_loop(make_server(service).target(), 0.5 / service, Budget(1.6, 10), seed=3))
    starts = np.array(sorted(sample.start for sample in observed.samples))
    free, expected = 0.0, []
    for start in starts:  # Lindley's recursion: who comes while the server is busy waits until it is free
        free = max(free, start) + service
        expected.append(free)
    mean_wait = np.mean(np.array(expected) - starts) - service
    assert mean_wait == pytest.approx(0.5 * service / (2 * (1 - 0.5)), rel=0.6)  # M/D/1
    ends = np.array(sorted(sample.start + sample.seconds for sample in observed.samples))
    later = ends - expected  # in the order of the answers: two that come close together may change places
    assert later.min() > -0.001  # nobody is served sooner
    assert np.median(later) < 0.1  # a busy machine answers late
    assert len(starts) == 80


def test_arrivals_are_a_poisson_process_that_a_seed_repeats(make_server: MakeServer) -> None:
    server = make_server()
    observed = run(open_loop(server.target(), 1000, Budget(0.5, 10), seed=1))
    starts = sorted(sample.start for sample in observed.samples)
    gaps = np.diff(starts)
    assert gaps.mean() == pytest.approx(0.001, rel=0.2)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.25)  # of a fixed rate it would be 0
    again = run(open_loop(server.target(), 1000, Budget(0.5, 10), seed=1))
    assert np.allclose(np.diff(sorted(sample.start for sample in again.samples)), gaps)


def test_a_stall_is_felt_by_all_that_arrive_in_it(make_server: MakeServer) -> None:
    rate = 100
    stalled = run(open_loop(make_server(0.001, stall=20).target(), rate, Budget(1.0, 10), seed=2))
    slow = (seconds(stalled) > 0.3).sum()
    assert slow > 10  # those of the first 0.2 s of the stall, not only the one that met it
    assert 0.48 < seconds(stalled).max() < 1.5
    waiting = run(closed_loop(make_server(0.001, stall=20).target(), 1, Budget(0.5, 10)))
    assert 1 <= (seconds(waiting) > 0.3).sum() <= 2  # a client that waits sends nothing meanwhile


def test_a_load_above_the_capacity_piles_up_and_is_left_when_it_is_lost(make_server: MakeServer) -> None:
    server = make_server(0.01)
    observed = run(open_loop(server.target(), 300, Budget(10.0, 10), seed=0, limit=Limit(0.05, 0.01)))
    assert observed.seconds < 10  # of its budget
    assert (seconds(observed) > 0.05).sum() > 30  # 1 % of 3000
    assert observed.connections > 32


def test_errors_are_counted_by_status(make_server: MakeServer) -> None:
    observed = run(closed_loop(make_server(fail_each=4).target(), 1, Budget(0.0, 100)))
    kinds = [sample.kind for sample in observed.samples]
    assert kinds.count("503") == pytest.approx(25, abs=1)
    assert set(kinds) == {"", "503"}
    assert observed.answered == kinds.count("")


def test_an_error_ends_a_rate_of_the_search(make_server: MakeServer) -> None:
    server = make_server(fail_each=10)
    observed = run(open_loop(server.target(), 200, Budget(5.0, 10), seed=0, limit=Limit(1.0, 0.01)))
    assert 10 <= len(observed.samples) < 15


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"service_s": 1.0}, "timeout"),
        ({"answer": b"220 this is no web server\r\n\r\n"}, "not HTTP"),
        ({"answer": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"}, ""),
        ({"chunked": True}, ""),
    ],
)
def test_each_way_to_fail_has_a_name(make_server: MakeServer, options: dict[str, object], kind: str) -> None:
    timeout = 0.05 if kind == "timeout" else 5.0
    observed = run(closed_loop(make_server(**options).target(timeout=timeout), 1, Budget(0.0, 2)))
    assert {sample.kind for sample in observed.samples} == {kind}


def test_a_server_that_is_gone_is_counted_and_not_hammered() -> None:
    address = parse_address(NOBODY)
    target = Target(address, (request(address, "/predict", {}, b"image"),), 1.0)
    observed = run(closed_loop(target, 1, Budget(0.2, 1)))
    assert {sample.kind for sample in observed.samples} == {"refused"}
    assert len(observed.samples) <= 25
    assert run(open_loop(target, 100, Budget(0.1, 1), seed=0)).answered == 0


def test_requests_are_sent_in_turns_and_only_once(make_server: MakeServer) -> None:
    server = make_server()
    observed = run(closed_loop(server.target(bodies=(b"one", b"two")), 1, Budget(0.0, 8)))
    assert len(server.bodies) == len(observed.samples) + 1  # the first answer opens the window
    assert [body for _, body in server.bodies[:4]] == [b"one", b"two", b"one", b"two"]


def test_connections_are_bounded_and_waiting_for_one_is_latency(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.serve.load.loops.MAX_CONNECTIONS", 2)
    monkeypatch.setattr("zoo.serve.load.loops.OPENED_AHEAD", 1)
    observed = run(open_loop(make_server(0.02).target(), 500, Budget(0.0, 20), seed=0))
    assert observed.connections == 2
    assert seconds(observed).max() > 0.3
    assert MAX_CONNECTIONS == 256


def test_arrivals_that_wait_too_long_for_a_connection_fail_in_time(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.serve.load.loops.MAX_CONNECTIONS", 2)
    observed = run(open_loop(make_server(2.0).target(timeout=0.1), 1000, Budget(0.0, 40), seed=0))
    assert {sample.kind for sample in observed.samples} == {"timeout"}
    assert len(observed.samples) == 40
    assert seconds(observed).max() < 1.0  # not 20 times 0.1


@pytest.mark.slow
def test_the_client_asks_at_least_two_thousand_times_a_second_of_a_server_that_does_nothing(
    make_server: MakeServer,
) -> None:
    server = make_server()
    with Client(server.target(bodies=(b"x" * 50_000,))) as client:
        observed = client.closed(32, Budget(3.0, 10))
    assert observed.answered / (observed.cpu * observed.seconds) >= 2000  # by CPU time: the server may lag


def test_the_client_is_a_process_of_its_own_that_ends_with_its_context(make_server: MakeServer) -> None:
    server = make_server(0.002)
    with Client(server.target()) as client:
        assert client.process.is_alive()
        observed = client.closed(2, Budget(0.1, 5))
        assert client.open(50, Budget(0.1, 5), seed=0).answered
    assert 20 < observed.answered / observed.seconds < 550
    assert not client.process.is_alive()
