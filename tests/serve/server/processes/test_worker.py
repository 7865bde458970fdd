from __future__ import annotations

import subprocess
import sys
import threading
from multiprocessing import Pipe
from typing import TYPE_CHECKING

import pytest

from zoo.serve.server.processes.job import Message
from zoo.serve.server.processes.worker import tell_that_it_lives

if TYPE_CHECKING:
    from pathlib import Path


def test_a_worker_says_that_it_lives_until_a_batch_hangs() -> None:
    hangs, stopped = threading.Event(), threading.Event()

    class Stuck:
        name, failing = "m", False

        @property
        def running_s(self) -> float:
            return 3.0 if hangs.is_set() else 2.0

    ours, theirs = Pipe()
    thread = threading.Thread(target=lambda: (tell_that_it_lives(theirs, [Stuck()], 2.0), stopped.set()))  # type: ignore[list-item]
    thread.start()
    message = ours.recv()
    assert message.kind == "alive"
    while message.kind == "alive":
        hangs.set()
        message = ours.recv()
    assert message == Message("hangs", error="a batch of m has run for more than 2 s")
    assert stopped.wait(5)


def test_a_worker_says_that_it_lives_until_a_model_fails_again_and_again() -> None:
    class Failing:
        name, running_s, failing = "m", 0.0, False

    model = Failing()
    ours, theirs = Pipe()
    arguments = (theirs, [model], 2.0)
    thread = threading.Thread(target=tell_that_it_lives, args=arguments, daemon=True)
    thread.start()
    message = ours.recv()
    while message.kind == "alive":
        model.failing = True
        message = ours.recv()
    assert message == Message("fails", error="m has failed on all recent images")
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.slow
def test_a_server_that_is_stopped_ends_without_a_word_of_the_libraries_it_loaded(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "zoo", "serve", str(tiny_bundle), "--device", "cpu", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        lines = iter(server.stdout.readline, "")
        assert any("ready at" in line for line in lines)
        server.terminate()
        assert "leaked" not in "".join(lines)  # as of Triton, whose objects a thread still held
        assert server.wait(30) == 0
