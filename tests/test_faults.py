from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from zoo.cli import main
from zoo.faults import fault_line, is_full_disk, is_full_memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    LittleSpace = Callable[[int], AbstractContextManager[None]]

TOO_MUCH = 2**60
TRAINS_IN_LITTLE_MEMORY = """
import resource
from pathlib import Path
import torch
import zoo.train.session
from zoo.cli import main
torch.set_num_threads(1)  # the stacks of threads would count
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 250 * 2**20, -1))
main()
"""
"""A ResNet-101, its copy and their gradients take more."""


def raised(by: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever it is
        by()
    return caught.value


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(TOO_MUCH, dtype=torch.uint8),
        lambda: np.empty(TOO_MUCH, np.uint8),
        lambda: bytearray(TOO_MUCH),
    ],
)
def test_a_full_memory_is_known_whoever_says_so(allocate: Callable[[], object]) -> None:
    error = raised(allocate)
    assert is_full_memory(error)
    assert not is_full_disk(error)
    assert str(fault_line(error)).startswith("the memory is full: ")


def test_the_memory_of_a_gpu_counts_as_well() -> None:
    assert is_full_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b.html"),
            "the disk is full (No space left on device: a/b.html): make room and begin again",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            "the disk is full (Disk quota exceeded): make room and begin again",
        ),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "the disk is full (No space left on device): make room and begin again",
        ),
        (OSError(errno.EIO, "Input/output error"), None),
        (RuntimeError("a mistake of ours"), None),
    ],
)
def test_a_full_disk_is_known_and_a_mistake_is_none(error: Exception, line: str | None) -> None:
    assert is_full_disk(error) == (line is not None)
    assert fault_line(error) == line


@pytest.mark.parametrize("debug", [False, True])
def test_a_report_that_does_not_fit_on_the_disk_ends_in_one_line(
    debug: bool,
    tiny_folder: Path,
    tmp_path: Path,
    little_space: LittleSpace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["zoo", *["--debug"] * debug, "data", "check", str(tiny_folder), "--no-write"]
    words += ["--report", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setenv("ZOO_DEBUG", "")  # which --debug sets
    with little_space(2000):
        error = raised(main)
    if debug:
        assert isinstance(error, OSError)
    else:
        assert isinstance(error, SystemExit)
        assert str(error.code).startswith("error: the disk is full (File too large")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what it holds")
def test_a_network_for_which_there_is_no_memory_ends_in_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    options = ["--data", str(tiny_folder), "--no-pretrained", "--out", str(tmp_path / "run")]
    words = ["train", "u2pl", *options, "--set", "network.encoder=resnet101", "--device", "cpu"]
    command = [sys.executable, "-c", TRAINS_IN_LITTLE_MEMORY, *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: the memory is full: ")
    assert "Traceback" not in result.stderr
