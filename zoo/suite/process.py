"""A process with a limit of time: what it wrote, how it ended, and why if that was not well."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from zoo.child import why_ended

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoo.child import StopRequests
    from zoo.suite.record import State

    Say = Callable[[str], None]

GRACE_S = 60.0
"""That a part has to save its work, once it is asked to end."""


class Outcome(NamedTuple):
    """How a process ended."""

    state: State
    reason: str | None
    seconds: float
    figures: dict[str, Any] | None


class Limits(NamedTuple):
    """Seconds that a process has, and those until it is killed if it does not end when it is asked to."""

    seconds: float
    grace: float = GRACE_S


def run_process(program: Sequence[str], limits: Limits, stop: StopRequests, say: Say) -> Outcome:
    """Run a program and return how it ended.

    Args:
        program: called with one more argument, the path that it writes its figures to.
        limits: see `Limits`.
        stop: passes Ctrl-C and SIGTERM on to it.
        say: told each line that it writes.
    """
    with tempfile.TemporaryDirectory(prefix="zoo-suite-") as name:
        figures = Path(name) / "figures.json"
        begun = time.monotonic()
        status, overran, last_words = _run([*program, str(figures)], limits, stop, say)
        seconds = round(time.monotonic() - begun, 1)
        found = json.loads(figures.read_text(encoding="utf-8")) if figures.is_file() else None
    if status == 0:
        return Outcome("finished", None, seconds, found)
    if overran:
        return Outcome("overran", f"ended at its limit of {limits.seconds:g} s", seconds, found)
    if stop.requested:
        return Outcome("stopped", "stopped by the user", seconds, found)
    return Outcome("failed", why_ended(status, last_words), seconds, found)


def _run(program: list[str], limits: Limits, stop: StopRequests, say: Say) -> tuple[int, bool, str]:
    """Return the exit status of a program, whether it overran, and the last line that it wrote."""
    last: deque[str] = deque(maxlen=1)
    overran = False
    with stop.started(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=_read, args=(process.stdout, last, say), daemon=True)
        reader.start()
        try:
            process.wait(limits.seconds)
        except subprocess.TimeoutExpired:
            overran = True
            _end(process, limits.grace)
        finally:
            _signal_all(process, "SIGKILL")  # what it left running would slow down the next part
        reader.join(limits.grace)
    return process.returncode, overran, last[0] if last else ""


def _read(stream: IO[str], last: deque[str], say: Say) -> None:
    for line in stream:
        if text := line.rstrip():
            last.append(text)
            say(text)


def _end(process: subprocess.Popen[str], grace: float) -> None:
    """Ask a process to end, and kill it if it does not."""
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _signal_all(process: subprocess.Popen[str], name: str) -> None:
    """Send a signal to a process and those that it started; Windows has no such groups."""
    if sys.platform != "win32":
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, getattr(signal, name))
