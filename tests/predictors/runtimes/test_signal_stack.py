from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from zoo.predictors.runtimes.openvino import OpenVinoPredictor
from zoo.predictors.signal_stack import signal_stack

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
pytest.importorskip("openvino")

INTERRUPTED = """
import signal, sys
from pathlib import Path
from zoo.predictors.runtimes.openvino import OpenVinoPredictor

signal.signal(signal.SIGINT, lambda *_: print("interrupted"))
first = OpenVinoPredictor(Path(sys.argv[1]))
second = OpenVinoPredictor(Path(sys.argv[1]))
del first
del second
signal.raise_signal(signal.SIGINT)
"""


def place() -> tuple[int | None, int]:
    stack = signal_stack()
    return stack.address, stack.size


def test_a_model_leaves_the_signal_stack_as_it_was(write_onnx: Any, tmp_path: Path) -> None:
    before = place()
    first, second = (OpenVinoPredictor(write_onnx(tmp_path / name)) for name in ("1.onnx", "2.onnx"))
    assert place() == before
    del first
    assert place() == before
    del second
    assert place() == before


@pytest.mark.slow
def test_a_signal_after_two_models_does_not_kill_the_process(write_onnx: Any, tmp_path: Path) -> None:
    program = [sys.executable, "-X", "faulthandler", "-c", INTERRUPTED, write_onnx(tmp_path / "model.onnx")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
