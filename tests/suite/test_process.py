"""Processes that end well, badly, late, or not at all; the programs are real ones, of a few lines."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from zoo.child import StopRequests
from zoo.suite.process import Limits, Outcome, run_process

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., Outcome]

KEEP = (
    "import json, os, pathlib, signal, sys, time\n"
    "keep = lambda figures: pathlib.Path(sys.argv[1]).write_text(json.dumps(figures))\n"
)
PATIENT = Limits(60.0)
SHORT = Limits(3.0)
"""Long enough for Python to start on a busy machine."""


@pytest.fixture
def run() -> Run:
    """Return a function that runs a program of a few lines."""

    def start(program: str, limits: Limits = PATIENT, say: Callable[[str], None] = lambda _: None) -> Outcome:
        with StopRequests() as stop:
            return run_process([sys.executable, "-c", KEEP + program], limits, stop, say)

    return start


def test_what_a_process_writes_is_kept_and_what_it_says_is_told(run: Run) -> None:
    said: list[str] = []
    outcome = run("print('one'); print(); print('two', file=sys.stderr); keep({'a': 1})", say=said.append)
    assert (outcome.state, outcome.reason, outcome.figures) == ("finished", None, {"a": 1})
    assert sorted(said) == ["one", "two"]
    assert outcome.seconds >= 0


def test_a_process_that_fails_says_why_in_one_line_and_leaves_what_it_measured(run: Run) -> None:
    outcome = run("keep({'a': 1}); raise MemoryError('out of memory')")
    assert (outcome.state, outcome.reason) == ("failed", "MemoryError: out of memory")
    assert outcome.figures == {"a": 1}
    assert run("sys.exit('error: no such thing')").reason == "no such thing"
    assert run("sys.exit(3)").reason == "it wrote nothing, status 3"


def test_a_process_that_crashes_is_told_by_its_signal(run: Run) -> None:
    outcome = run("print('so far', flush=True); os.kill(os.getpid(), signal.SIGKILL)")
    assert (outcome.state, outcome.reason) == ("failed", "killed by SIGKILL; so far")


def test_a_process_that_overruns_may_save_its_work(run: Run) -> None:
    program = (
        "def save(*_): keep({'saved': True}); sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, save); keep({'saved': False}); time.sleep(60)"
    )
    outcome = run(program, SHORT)
    assert (outcome.state, outcome.reason) == ("overran", "ended at its limit of 3 s")
    assert outcome.figures == {"saved": True}


def test_a_process_that_ends_well_when_it_is_asked_to_is_finished(run: Run) -> None:
    program = (
        "def save(*_): keep({'a': 1}); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save); print('ready', flush=True); time.sleep(60)"
    )

    def say(text: str) -> None:
        if text == "ready":
            os.kill(os.getpid(), signal.SIGTERM)  # passed on to the process

    assert run(program, say=say)[:2] == ("finished", None)


def test_a_process_that_will_not_end_is_killed_with_all_that_it_started(run: Run) -> None:
    program = (
        "import subprocess\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "keep({'child': child.pid}); time.sleep(60)"
    )
    outcome = run(program, SHORT._replace(grace=0.1))
    assert outcome.state == "overran"
    assert outcome.figures
    assert is_gone(outcome.figures["child"])


def test_a_stop_reaches_the_process_and_is_not_a_failure(run: Run) -> None:
    def say(text: str) -> None:
        if text == "ready":
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does

    outcome = run("keep({'a': 1}); print('ready', flush=True); time.sleep(60)", say=say)
    assert (outcome.state, outcome.reason) == ("stopped", "stopped by the user")
    assert outcome.figures == {"a": 1}


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, also if nobody has asked for its status yet."""
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
