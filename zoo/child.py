"""Stop signals, child processes that receive them, and the reason why a process ended."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType, TracebackType

REASON_LENGTH = 300

SHELL_STATUS = 128
"""A shell reports a process that signal N ends with the exit status 128 + N."""

STOPS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM in a list instead of dying at once; a second signal acts as usual.

    Only the main thread of a process may handle signals; in another one, the list stays empty.
    """
    received: list[int] = []
    if current_thread() is not main_thread():
        yield received
        return
    previous: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        received.append(number)
        signal.signal(number, previous[number])

    for stop in (signal.SIGINT, signal.SIGTERM):
        previous[stop] = signal.signal(stop, note)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def unwinding() -> Iterator[None]:
    """Let SIGTERM end the block by `SystemExit`, so that it removes its temporary files; main thread only."""

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise SystemExit(SHELL_STATUS + number)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class StopRequests:
    """Context that forwards Ctrl-C, SIGTERM and SIGHUP to the current runs, which save their state and end.

    Runs may be started and awaited by several threads.
    """

    def __init__(self) -> None:
        self.requested = False
        self.processes: set[subprocess.Popen[str]] = set()
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        """Install the signal handlers."""
        for number in STOPS:
            self.previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)

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

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.stop(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


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
