"""Stop signals: collected, given back, and with a terminal that is gone."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from typing import TYPE_CHECKING

import pytest

from zoo.child import STOPS, on_stop, stop_requests, unwinding

if TYPE_CHECKING:
    from pathlib import Path

HANDLERS = [signal.SIG_DFL, signal.SIG_IGN]
WRITES = """
import sys, time
from pathlib import Path
from zoo.child import stop_requests

with stop_requests() as stops:
    while not stops:
        print("at work", flush=True)
        time.sleep(0.02)
    print("this goes nowhere", flush=True)
    print("nor does this", file=sys.stderr, flush=True)
    Path(sys.argv[1]).write_text(f"stopped by {stops[0]}")
"""


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_signal_is_collected_and_a_second_one_acts_as_before(number: int) -> None:
    seen: list[int] = []
    before = signal.signal(number, lambda number, _: seen.append(number))
    try:
        with stop_requests() as stops:
            signal.raise_signal(number)
            assert (stops, seen) == ([number], [])
            signal.raise_signal(number)
            assert (stops, seen) == ([number], [number])
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_hangup_that_nohup_ignores_stays_ignored_and_handlers_are_given_back(
    handler: signal.Handlers,
) -> None:
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with on_stop(lambda _: None) as previous:
            assert (signal.SIGHUP in previous) is (handler == signal.SIG_DFL)
            assert (signal.getsignal(signal.SIGHUP) == handler) is (handler == signal.SIG_IGN)
        assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_block_that_unwinds_ends_with_the_status_of_the_signal(number: int) -> None:
    with pytest.raises(SystemExit) as ended, unwinding():
        signal.raise_signal(number)
    assert ended.value.code == 128 + number


def test_another_thread_handles_no_signals() -> None:
    handled: list[dict[int, object]] = []

    def handle() -> None:
        with on_stop(lambda _: None) as previous:
            handled.append(previous)

    thread = threading.Thread(target=handle)
    thread.start()
    thread.join()
    assert handled == [{}]


def test_a_closed_terminal_stops_a_process_and_does_not_fail_it(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", WRITES, str(tmp_path / "end")],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:
        os.close(theirs)
        assert os.read(ours, 7) == b"at work"
        os.close(ours)
        assert process.wait(60) == 0
    assert (tmp_path / "end").read_text() == f"stopped by {int(signal.SIGHUP)}"
