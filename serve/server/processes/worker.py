"""Worker process: loads the models, serves on its parent's socket, and ends with its parent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging.config
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING

import uvicorn

from zoo.errors import ZooError
from zoo.serve.server.core.logs import log_config
from zoo.serve.server.core.settings import FIGURES_VARIABLE
from zoo.serve.server.processes.job import BACKLOG, BEAT_S, GRACE_S, Message, Served

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection
    from socket import socket

    from zoo.serve.server.core.context import Context
    from zoo.serve.server.core.model import Model
    from zoo.serve.server.grpc.server import GrpcServer
    from zoo.serve.server.processes.job import Job

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 75
"""Seconds that idle connections stay open; more than the 60 s of load balancers, which then close first."""


def work(job: Job, sock: socket, parent: Connection) -> None:
    """Serve until the parent stops the worker or ends; exit with 1 if the models cannot be loaded, else 0.

    Args:
        job: task of the worker.
        sock: listening socket.
        parent: connection to the parent, to which messages are sent; the parent never writes.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent gets it too, and ends this process
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about broken images, which get an error response
    logging.config.dictConfig(log_config(json_logs=job.settings.json_logs))
    threading.Thread(target=_end_with, args=(parent, job.settings.timeout), daemon=True).start()
    try:
        models = load_models(job)
        server = Server(job, models, parent)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # uvicorn handles it, and raises it again at the end
        server.run(sockets=[sock])
    except ZooError as error:
        _tell(parent, Message("failed", error=str(error)))
        sys.exit(1)


def load_models(job: Job) -> list[Model]:
    """Load and return the models of a job.

    Raises:
        ZooError: a model cannot be loaded.
    """
    from zoo.serve.server.core.loading import load_model

    load = job.load or load_model
    return [load(source, job.settings) for source in job.models]


class Server(uvicorn.Server):
    """uvicorn server with gRPC beside it, which tells the parent when all models have passed an inference."""

    def __init__(self, job: Job, models: Sequence[Model], parent: Connection) -> None:
        from zoo.serve.server.http.app import create_app

        app = create_app(models, job.settings)
        super().__init__(configuration(app, job))
        self._context: Context = app.state.context
        self._grpc: GrpcServer | None = None
        self._job = job
        self._models = models
        self._parent = parent

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start the models, then the application.

        Raises:
            ZooError: a model fails on a blank image, or the port of gRPC cannot be used.
        """
        for model in self._models:
            try:
                await model.start()
                await model.probe()
            except ZooError:
                raise
            except Exception as error:
                log.error("%s cannot be started", model.name, exc_info=error)
                raise ZooError(
                    f"{model.name} fails on a blank image ({type(error).__name__}: {error}): export it "
                    f"again, or use another --backend"
                ) from error
        await super().startup(sockets)
        if self._job.grpc is not None:
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the lines of its C++ part are no JSON
            from zoo.serve.server.grpc.server import GrpcServer

            self._grpc = GrpcServer(self._context, self._job.grpc, *(self._job.certificate or ()))
            await self._grpc.start()
        # a full garbage collection scanned all imports for 80 ms, blocking batches; now 9 ms
        gc.collect()
        gc.freeze()
        served = tuple(
            Served(model.name, model.backend, model.description, model.reason, model.path, model.max_batch)
            for model in self._models
        )
        _tell(self._parent, Message("ready", models=served))
        beat = (self._parent, self._models, self._job.settings.hang_s)
        threading.Thread(target=tell_that_it_lives, args=beat, daemon=True).start()

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Finish the requests in flight, then stop the models."""
        if self._grpc is not None:
            timeout = self._job.settings.timeout
            self._context.draining = asyncio.create_task(self._grpc.stop(timeout))
        await super().shutdown(sockets)


def configuration(app: object, job: Job) -> uvicorn.Config:
    """Return uvicorn's configuration for an application.

    Raises:
        ZooError: the certificate cannot be used.
    """
    from zoo.serve.server.processes.uvicorn_protocol import guarded_protocol

    certificate = job.certificate
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        lifespan="on",
        http=guarded_protocol(job.settings),
        backlog=BACKLOG,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(job.settings.timeout) + 1,
        ssl_certfile=certificate and certificate.certfile,
        ssl_keyfile=certificate and certificate.keyfile,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise ZooError(
            f"the certificate cannot be used ({error}), expected matching PEM files: check --ssl-certfile "
            f"and --ssl-keyfile"
        ) from error
    return config


def _end_with(parent: Connection, timeout_s: float) -> None:
    """End this process when its parent has ended, which closes the pipe; runs in a thread."""
    with contextlib.suppress(EOFError, OSError):
        parent.recv()
    log.warning("the parent process has ended: stopping")
    if folder := os.environ.get(FIGURES_VARIABLE):
        shutil.rmtree(folder, ignore_errors=True)  # normally removed by the parent
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(timeout_s + GRACE_S)
    os._exit(1)


def tell_that_it_lives(parent: Connection, models: Sequence[Model], hang_s: float) -> None:
    """Send a heartbeat to the parent every `BEAT_S`, until this process must be replaced; runs in a thread.

    That is the case when a batch hangs, or when a model keeps failing.

    Args:
        parent: connection to the parent.
        models: models of this worker.
        hang_s: seconds after which a batch counts as hanging.
    """
    while True:
        hanging = ", ".join(model.name for model in models if model.running_s > hang_s)
        failing = ", ".join(model.name for model in models if model.failing)
        if hanging or failing:
            break
        try:
            parent.send(Message("alive"))
        except OSError:  # the parent has ended
            return
        time.sleep(BEAT_S)
    if hanging:
        _tell(parent, Message("hangs", error=f"a batch of {hanging} has run for more than {hang_s:g} s"))
    else:
        _tell(parent, Message("fails", error=f"{failing} has failed on all recent images"))


def _tell(parent: Connection, message: Message) -> None:
    with contextlib.suppress(OSError):  # the parent has ended
        parent.send(message)


def main(job: Job, sock: socket, parent: Connection) -> None:
    """Run `work` as the target of a process, report unexpected errors to the parent, and end the process.

    Threads still hold objects of libraries that would print them as leaks (Triton's, which torchvision
    imports), so that the interpreter is not taken down.
    """
    code: int | str | None = 0
    try:
        work(job, sock, parent)
    except SystemExit as end:
        code = end.code
    except Exception as error:
        log.exception("the worker failed")
        _tell(parent, Message("failed", error=f"a worker failed ({type(error).__name__}: {error})"))
        code = 1
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)
