"""Real processes on loopback: what a client sees when workers die, end, or have too much to do."""

from __future__ import annotations

import errno
import http.client
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2 as pb

from zoo.errors import ZooError
from zoo.serve.server.processes.port import Port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Serve = Callable[..., "Serving"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

LOCAL_POOL = (("grpc.use_local_subchannel_pool", 1),)
"""Option of a channel with a connection of its own."""

LOST = 0
"""Status of a request whose connection broke."""

PROGRAM = Path(__file__).with_name("stand_in_server.py")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]


class Serving:
    """A supervisor with workers, all in processes of their own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        line = process.stdout.readline().split()
        assert line[:1] == ["ready"], process.communicate()
        self.port, self.grpc_port = int(line[1]), int(line[-1])

    def workers(self) -> list[int]:
        return [pid for pid in children(self.process.pid) if "spawn_main" in command(pid)]

    def post(self, body: bytes = b"", timeout: float = 20) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("POST", "/predict", body or BODY, {"Content-Type": "image/png"})
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            return Answer(LOST, {})
        else:
            return Answer(response.status, dict(response.headers))
        finally:
            connection.close()

    def infer(self, channel: grpc.Channel, **how: Any) -> Any:
        """Return the future of a call."""
        method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        return method.future(MESSAGE, timeout=20, **how)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(40)


def picture(color: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(stream, "PNG")
    return stream.getvalue()


MESSAGE = pb.ModelInferRequest(
    model_name="stand-in",
    inputs=[{"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3]}],
    raw_input_contents=[b"123"],
).SerializeToString()

BODY, HANGS, BREAKS = picture((200, 10, 10)), picture((0, 255, 0)), picture((0, 0, 255))


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def wait_until(true: Callable[[], bool], seconds: float = 60) -> float:
    """Wait and return how long it took."""
    begin = time.monotonic()
    while not true():
        assert time.monotonic() - begin < seconds
        time.sleep(0.01)
    return time.monotonic() - begin


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts a server of stand-ins; none of its processes outlives the test."""
    started: list[Serving] = []

    def start(seconds: float = 0.006, **options: object) -> Serving:
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(seconds), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(Serving(process))
        return started[-1]

    yield start
    for serving in started:
        workers = serving.workers() if serving.process.poll() is None else []
        serving.process.kill()
        serving.process.communicate()
        for pid in filter(lives, workers):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_worker_is_replaced_while_the_other_answers(serve: Serve) -> None:
    serving = serve(workers=2)
    victim = serving.workers()[0]
    answers: list[tuple[float, int]] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            status = serving.post().status
            answers.append((time.monotonic(), status))

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    wait_until(lambda: len(answers) > 20)
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(serving.workers()) == 2 and victim not in serving.workers())
    time.sleep(1)
    done.set()
    for client in clients:
        client.join()
    counts = Counter(status for _, status in answers)
    assert set(counts) <= {200, LOST}
    # what was in its hands, once more for who came back while the system still closed its sockets, no more
    assert counts[LOST] <= 2 * len(clients)
    times = [killed, *sorted(moment for moment, status in answers if status == 200 and moment > killed)]
    assert max(later - earlier for earlier, later in pairwise(times)) < 2
    assert serving.end() == 0


@pytest.mark.slow
def test_the_only_worker_that_is_killed_is_back_soon_and_who_comes_meanwhile_waits(serve: Serve) -> None:
    serving = serve()
    os.kill(serving.workers()[0], signal.SIGKILL)
    begin = time.monotonic()
    assert serving.post().status == 200
    assert time.monotonic() - begin < 15  # 2 s on a machine that has nothing else to do


@pytest.mark.slow
def test_a_worker_whose_backend_hangs_and_one_that_stands_still_are_replaced(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAST_HANG_S", "0.5")
    serving = serve(timeout=1.5)
    (first,) = serving.workers()
    assert serving.post(HANGS).status == 504  # the batch is let run for twice as long
    wait_until(lambda: serving.workers() not in ([], [first]))
    assert serving.post().status == 200
    (second,) = serving.workers()
    os.kill(second, signal.SIGSTOP)
    wait_until(lambda: serving.workers() not in ([], [second]))
    assert serving.post().status == 200
    assert serving.end() == 0
    assert serving.process.stderr is not None
    told = serving.process.stderr.read()
    assert "worker 0 hangs: a batch of stand-in has run for more than 3 s: killing it" in told
    assert "worker 0 has sent no heartbeat for 3 s: killing it" in told


@pytest.mark.slow
def test_a_worker_whose_backend_fails_on_all_images_is_replaced(serve: Serve) -> None:
    serving = serve()
    (first,) = serving.workers()
    assert [serving.post(picture((255, 0, 0))).status for _ in range(5)] == [500] * 5
    assert serving.post().status == 200  # images were at fault
    assert serving.workers() == [first]
    assert [serving.post(BREAKS).status, *(serving.post().status for _ in range(2))] == [500] * 3
    wait_until(lambda: serving.workers() not in ([], [first]))
    assert serving.post().status == 200
    assert serving.end() == 0
    assert serving.process.stderr is not None
    told = serving.process.stderr.read()
    assert "worker 0 fails: stand-in has failed on all recent images: stopping it" in told


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_what_is_in_flight_finish_and_leaves_nothing_behind(serve: Serve, number: int) -> None:
    serving = serve(0.3, workers=2)
    processes = [serving.process.pid, *children(serving.process.pid)]
    with ThreadPoolExecutor(24) as pool:
        answers = [pool.submit(serving.post) for _ in range(24)]
        time.sleep(0.5)
        assert serving.end(number) == 0
        assert Counter(answer.result().status for answer in answers) == {200: 24}
    wait_until(lambda: not any(map(lives, processes)), 10)
    assert serving.post().status == LOST


@pytest.mark.slow
def test_calls_of_grpc_in_flight_finish_at_a_signal(serve: Serve) -> None:
    serving = serve(0.2, workers=2, grpc=1)
    channels = [grpc.insecure_channel(f"127.0.0.1:{serving.grpc_port}", LOCAL_POOL) for _ in range(8)]
    for channel in channels:
        serving.infer(channel, wait_for_ready=True).result()
    calls = [serving.infer(channel) for channel in channels for _ in range(4)]
    time.sleep(0.3)
    assert serving.end() == 0
    assert Counter(call.code() for call in calls) == {grpc.StatusCode.OK: len(calls)}
    assert serving.infer(channels[0]).code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.slow
def test_a_worker_that_is_killed_is_back_on_the_port_of_grpc(serve: Serve) -> None:
    serving = serve(grpc=1)
    with grpc.insecure_channel(f"127.0.0.1:{serving.grpc_port}") as channel:
        assert serving.infer(channel, wait_for_ready=True).result()
        os.kill(serving.workers()[0], signal.SIGKILL)
        wait_until(lambda: serving.infer(channel).code() is grpc.StatusCode.UNAVAILABLE)
        wait_until(lambda: serving.infer(channel, wait_for_ready=True).code() is grpc.StatusCode.OK)
    assert serving.end() == 0


@pytest.mark.slow
def test_a_second_signal_ends_at_once(serve: Serve) -> None:
    serving = serve(1.5)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(serving.post)
        time.sleep(0.5)
        serving.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert serving.end() == 0
        assert answer.result().status == LOST  # it had 0.7 s to go


@pytest.mark.slow
def test_what_does_not_fit_into_the_queue_is_refused_and_told_when_to_come_back(serve: Serve) -> None:
    serving = serve(0.2, queue=64)
    (worker,) = serving.workers()
    before = resident_mb(worker)
    with ThreadPoolExecutor(300) as pool:
        answers = list(pool.map(lambda _: serving.post(), range(300)))
    counts = Counter(answer.status for answer in answers)
    assert set(counts) == {200, 503}
    assert counts[200] >= 72
    refused = [answer for answer in answers if answer.status == 503]
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert resident_mb(worker) - before < 100
    assert serving.post().status == 200


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(serve: Serve) -> None:
    serving = serve(workers=2)
    processes = children(serving.process.pid)
    assert len(processes) >= 2
    environment = Path(f"/proc/{serving.workers()[0]}/environ").read_text().split("\0")
    (figures,) = [
        text.partition("=")[2] for text in environment if text.startswith("PROMETHEUS_MULTIPROC_DIR=")
    ]
    assert Path(figures).is_dir()
    serving.process.kill()
    wait_until(lambda: not any(map(lives, processes)), 20)
    assert not Path(figures).exists()


@pytest.mark.slow
def test_a_folder_of_metrics_that_is_not_its_own_is_left_alone(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.txt").write_text("of the user")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    serving = serve(workers=1)
    processes = children(serving.process.pid)
    serving.process.kill()
    wait_until(lambda: not any(map(lives, processes)), 20)
    assert [path.name for path in tmp_path.iterdir()] == ["data.txt"]


def test_a_port_in_use_is_an_error_of_one_line() -> None:
    port = Port("127.0.0.1", 0)
    for workers in (1, 2):
        with pytest.raises(ZooError, match=rf"cannot listen on 127.0.0.1:{port.number} .*choose another"):
            Port("127.0.0.1", port.number, workers)


def test_the_sockets_of_several_workers_share_a_port_that_no_other_server_gets() -> None:
    port = Port("127.0.0.1", 0, 2)
    sockets = [port.open(), port.open()]
    for sock in sockets:
        sock.listen()
    assert {sock.getsockname()[1] for sock in sockets} == {port.number}
    with pytest.raises(ZooError, match="cannot listen"):
        Port("127.0.0.1", port.number, 2)
    for sock in sockets:
        sock.close()
    port.close()


def test_the_port_of_grpc_is_held_for_the_workers_and_named_by_its_option() -> None:
    port = Port("127.0.0.1", 0, bound_by_workers=True)
    assert port.address == f"127.0.0.1:{port.number}"
    sock = port.open()  # as gRPC does
    sock.listen()
    with pytest.raises(ZooError, match="choose another with --grpc-port"):
        Port("127.0.0.1", port.number, option="--grpc-port", bound_by_workers=True)
    sock.close()
    port.close()


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "", " ", "no.such.host.invalid", "localhost:8000", "http://0.0.0.0", "a" * 70]
)
def test_a_host_that_is_not_here_is_named_in_an_error_of_one_line(host: str) -> None:
    with pytest.raises(ZooError, match=re.escape(f"cannot listen on {host}:0 ")) as caught:
        Port(host, 0)
    assert "expected a name or address of this machine: choose 127.0.0.1" in str(caught.value)
    assert "--port" not in str(caught.value)


def test_a_port_that_needs_privileges_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Port, "_bind", refuse)
    with pytest.raises(ZooError, match=r"127.0.0.1:80 \(Permission denied\), .*above 1023 with --port"):
        Port("127.0.0.1", 80)
