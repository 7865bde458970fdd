"""Stop signals, child processes that receive them, and the reason why a process ended."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType, TracebackType

REASON_LENGTH = 300

SHELL_STATUS = 128
"""A shell reports a process that signal N ends with the exit status 128 + N."""

STOPS: list[int] = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


@contextmanager
def on_stop(act: Callable[[int], None], numbers: Sequence[int] = STOPS) -> Iterator[dict[int, Any]]:
    """Call `act` with the number of a stop signal in place of its handler; yield the earlier handlers.

    SIGHUP comes when a terminal or a connection closes; where it is ignored (`nohup`), it stays so. Only the
    main thread of a process may handle signals; in another one, nothing is yielded.
    """
    previous: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        _leave_lost_terminal()
        act(number)

    if current_thread() is main_thread():
        for number in numbers:
            if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                previous[number] = signal.signal(number, handle)
    try:
        yield previous
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave_lost_terminal() -> None:
    """Write to nowhere from now on what would go to a closed terminal, where each write is an error."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), stream)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect stop signals in a list instead of dying at once; a second one acts as usual."""
    received: list[int] = []

    def note(number: int) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    with on_stop(note) as previous:
        yield received


@contextmanager
def unwinding() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block by `SystemExit`, so that it removes its temporary files."""

    def end(number: int) -> None:
        raise SystemExit(SHELL_STATUS + number)

    with on_stop(end, STOPS[1:]):
        yield


class StopRequests:
    """Context that forwards stop signals to the current runs, which save their state and end.

    Runs may be started and awaited by several threads.
    """

    def __init__(self) -> None:
        self.requested = False
        self.processes: set[subprocess.Popen[str]] = set()
        self._handlers = ExitStack()

    def __enter__(self) -> StopRequests:
        """Install the signal handlers."""
        self._handlers.enter_context(
            on_stop(lambda number: self.stop(number if number == signal.SIGINT else signal.SIGTERM))
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the previous signal handlers."""
        self._handlers.close()

    @contextmanager
    def started(self, program: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
        """Start a process that receives stop requests, including one that arrived before it was started.

        Args:
            program: program and its arguments.
            options: keyword arguments of `subprocess.Popen`.
        """
        with subprocess.Popen(
            program,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C in the terminal reaches it only through this class
            **options,
        ) as process:
            self.processes.add(process)
            if self.requested:
                process.send_signal(signal.SIGTERM)
            try:
                yield process
            finally:
                self.processes.discard(process)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End all processes that run, and those that are started from now on."""
        self.requested = True
        for process in tuple(self.processes):
            process.send_signal(number)  # does nothing if it is dead


def why_ended(status: int, last_words: str) -> str:
    """Return in one line why a process ended early.

    Args:
        status: return code of `subprocess`, negative for a signal.
        last_words: last line of the process's output.
    """
    said = last_words.removeprefix("error: ")[:REASON_LENGTH] or f"it wrote nothing, status {status}"
    return f"killed by {signal.Signals(-status).name}; {said}" if status < 0 else said


def is_first() -> bool:
    """Return whether this process has rank 0, also as the only process of a run."""
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun
        return os.environ["RANK"] == "0"
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0"
