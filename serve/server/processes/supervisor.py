"""Supervisor of the worker processes: starts them, replaces those that die or hang, and stops them.

Why not uvicorn's supervisor: it polls its workers every 0.5 s, gives all of them the same environment and so
the same GPU, stops all when a replaced worker cannot load its model, and leaves them running when it is
killed.
"""

from __future__ import annotations

import logging.config
import os
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe, connection, get_context, resource_tracker
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from zoo.child import on_stop
from zoo.errors import ZooError
from zoo.machine import gpu_of_worker
from zoo.serve.server.core.logs import log_config
from zoo.serve.server.core.settings import FIGURES_VARIABLE
from zoo.serve.server.processes.job import GRACE_S, Job, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess
    from socket import socket

    from zoo.serve.server.processes.job import Served
    from zoo.serve.server.processes.port import Port

    WhenReady = Callable[[tuple[Served, ...]], None]


log = logging.getLogger(__name__)

STABLE_S = 10.0
"""Seconds of life after which the death of a worker does not count as a repeated one."""

MAX_PAUSE_S = 30.0
"""Maximum seconds between two attempts to replace a worker."""

MEMORY = Path("/dev/shm")
"""In-memory folder on Linux."""


@dataclass
class Worker:
    """Worker process."""

    number: int
    process: SpawnProcess
    connection: Connection
    started: float
    heard: float
    """Time of its last heartbeat."""
    ready: bool = False


@dataclass
class PendingWorker:
    """Worker to be started."""

    number: int
    at: float
    """Time of the start, as in `time.monotonic()`."""


class Supervisor:
    """Keeps a number of workers running on a port.

    Args:
        job: task of each worker.
        workers: number of workers.
        port: port to listen on; closed at the end.
        gpus: number of GPUs to distribute among the workers; 0 for none.
    """

    def __init__(self, job: Job, workers: int, port: Port, gpus: int = 0) -> None:
        self._job = job
        self._port = port
        self._gpus = gpus
        self._workers: list[Worker] = []
        self._gaps = [PendingWorker(number, 0.0) for number in range(workers)]
        self._deaths = [0] * workers  # consecutive
        self._served: tuple[Served, ...] = ()
        self._wanted = workers
        self._announced = False
        self._stop = False
        self._hang_s = job.settings.hang_s
        self._figures = ""
        """Folder in which several workers combine their metrics."""

    def run(self, when_ready: WhenReady) -> None:
        """Serve until SIGTERM, SIGINT or SIGHUP, then let the workers finish the requests in flight.

        Args:
            when_ready: called once, when all workers have passed a real inference.

        Raises:
            ZooError: a worker could not start before all were ready.
        """
        logging.config.dictConfig(log_config(json_logs=self._job.settings.json_logs))
        with _signals() as caught, shared_folder(self._wanted) as self._figures:
            try:
                while not self._stop:
                    self._start_due()
                    self._handle(self._wait(caught), caught)
                    self._kill_silent()
                    if not self._announced and sum(worker.ready for worker in self._workers) == self._wanted:
                        self._announced = True
                        when_ready(self._served)
            finally:
                self._end(caught)

    @property
    def pids(self) -> list[int]:
        """Return the process ids of the workers."""
        return [worker.process.pid for worker in self._workers if worker.process.pid is not None]

    def _start_due(self) -> None:
        now = time.monotonic()
        for gap in [gap for gap in self._gaps if gap.at <= now]:
            self._gaps.remove(gap)
            self._workers.append(self._start(gap.number))

    def _start(self, number: int) -> Worker:
        ours, theirs = Pipe()
        sock = self._port.open()
        process = get_context("spawn").Process(
            target=_work, args=(self._job, sock, theirs), name=f"zoo worker {number}"
        )
        variables = {FIGURES_VARIABLE: self._figures or None}  # never a folder of the user's
        if (gpu := gpu_of_worker(number, self._gpus)) is not None:
            variables["CUDA_VISIBLE_DEVICES"] = gpu
        with environment(variables), interrupts_blocked():
            process.start()
        sock.close()
        theirs.close()  # so that each side notices the end of the other
        now = time.monotonic()
        return Worker(number, process, ours, now, now)

    def _wait(self, caught: Connection) -> list[Any]:
        """Return the readable connections and the sentinels of dead processes, if any."""
        sources: list[Any] = [caught]
        for worker in self._workers:
            sources += [worker.process.sentinel, worker.connection]
        times = [worker.heard + self._hang_s for worker in self._workers if worker.ready]
        until = min([gap.at for gap in self._gaps] + times, default=None)
        return connection.wait(sources, None if until is None else max(0.0, until - time.monotonic()))

    def _handle(self, told: list[Any], caught: Connection) -> None:
        if caught in told:
            self._stop = True
            return
        for worker in list(self._workers):
            if worker.connection in told:
                self._hear(worker)
            if worker.process.sentinel in told:
                self._replace(worker)

    def _kill_silent(self) -> None:
        """Kill ready workers without heartbeats; starting may take any time."""
        for worker in self._workers:
            if worker.ready and time.monotonic() > worker.heard + self._hang_s:
                self._kill(worker, f"has sent no heartbeat for {self._hang_s:g} s")

    def _hear(self, worker: Worker) -> None:
        try:
            message: Message = worker.connection.recv()
        except (EOFError, OSError):  # it died: handled by its sentinel
            return
        worker.heard = time.monotonic()
        if message.kind == "alive":
            return
        if message.kind == "hangs":
            self._kill(worker, f"hangs: {message.error}")
        elif message.kind == "fails":
            log.error("worker %d fails: %s: stopping it", worker.number, message.error)
            worker.process.terminate()  # its other models finish the requests in flight
        elif message.kind == "ready":
            worker.ready, self._served = True, message.models
            if self._announced:
                log.warning(
                    "worker %d is back after %.1f s", worker.number, time.monotonic() - worker.started
                )
        elif not self._announced:
            raise ZooError(message.error)
        else:
            log.error("worker %d cannot start: %s", worker.number, message.error)

    def _kill(self, worker: Worker, why: str) -> None:
        log.error("worker %d %s: killing it", worker.number, why)
        worker.heard = time.monotonic()
        worker.process.kill()

    def _replace(self, worker: Worker) -> None:
        worker.process.join()
        how = _ending(worker.process.exitcode)
        if not self._announced:
            raise ZooError(
                f"worker {worker.number} {how} while it started, expected it to be ready: see the log above"
            )
        number = worker.number
        self._close(worker)
        if worker.ready and time.monotonic() - worker.started > STABLE_S:
            self._deaths[number] = 0
        pause = min(MAX_PAUSE_S, 2.0 ** (self._deaths[number] - 1)) if self._deaths[number] else 0.0
        self._deaths[number] += 1
        self._gaps.append(PendingWorker(number, time.monotonic() + pause))
        log.error("worker %d %s: starting another %s", number, how, f"in {pause:.0f} s" if pause else "now")

    def _close(self, worker: Worker) -> None:
        if self._figures:
            from prometheus_client.multiprocess import mark_process_dead

            mark_process_dead(worker.process.pid, self._figures)  # type: ignore[no-untyped-call]
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.close()

    def _end(self, caught: Connection) -> None:
        """Let the workers finish; kill those that take too long, or all of them at a second signal."""
        self._port.close()
        _drain(caught)
        for worker in self._workers:
            if worker.ready:
                worker.process.terminate()
            else:
                worker.process.kill()
        until = time.monotonic() + self._job.settings.timeout + GRACE_S
        while self._workers:
            sentinels = {worker.process.sentinel: worker for worker in self._workers}
            told = connection.wait([*sentinels, caught], max(0.0, until - time.monotonic()))
            if not told or caught in told:
                _drain(caught)
                for worker in self._workers:
                    log.error("worker %d does not end: killing it", worker.number)
                    worker.process.kill()
                    worker.process.join()
            for worker in list(self._workers):
                if not worker.process.is_alive():
                    self._close(worker)


def _work(job: Job, sock: socket, parent: Connection) -> None:
    from zoo.serve.server.processes.worker import main

    main(job, sock, parent)


def _ending(code: int | None) -> str:
    """Return a description of how a process ended."""
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with {code}"


@contextmanager
def _signals() -> Iterator[Connection]:
    """Yield a connection that becomes readable at SIGTERM, SIGINT or SIGHUP."""
    reader, writer = Pipe(duplex=False)
    with reader, writer, on_stop(lambda _: writer.send(None)):
        yield reader


def _drain(caught: Connection) -> None:
    while caught.poll():
        caught.recv()


@contextmanager
def shared_folder(workers: int) -> Iterator[str]:
    """Yield a folder for the metrics of several workers, in memory, so that a full disk cannot stop them."""
    if workers == 1:
        yield ""
        return
    in_memory = MEMORY.is_dir() and os.access(MEMORY, os.W_OK)
    with TemporaryDirectory(
        prefix="zoo-", dir=MEMORY if in_memory else None, ignore_cleanup_errors=True
    ) as it:
        yield it


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Shield processes that are started in the block from Ctrl-C, which the terminal sends to all."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # else it would start in the block and unblock the signals
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Change the environment of processes that are started in the block; None removes a variable."""
    before = dict(os.environ)
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
