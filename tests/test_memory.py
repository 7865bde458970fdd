from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from zoo.memory import STATUS, peak_memory, peak_mib, reset_peak

CPU = torch.device("cpu")
SIZE_MIB = 200

CHILD = """
import torch
from zoo.memory import peak_mib
raise SystemExit(int(peak_mib(torch.device("cpu")) > {}))
"""


def peak() -> float:
    value = peak_mib(CPU)
    if value is None:
        pytest.skip("this system does not count")
    return value


def test_the_peak_stays_when_the_memory_is_given_back() -> None:
    before = peak()
    block = bytearray(SIZE_MIB * 2**20)
    del block
    assert peak() >= before
    assert peak() > SIZE_MIB


def test_a_peak_can_be_forgotten() -> None:
    block = bytearray(SIZE_MIB * 2**20)
    held = peak()
    del block
    if not reset_peak(CPU):
        pytest.skip("this system does not forget")
    assert peak() < held - SIZE_MIB / 2


def test_the_record_says_what_it_is_the_peak_of() -> None:
    assert peak_memory(CPU) == {"mib": peak(), "kind": "resident set of the training process"}


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.is_file(), reason="getrusage counts the parent's")
def test_a_process_is_not_charged_for_its_parent() -> None:
    block = bytearray(2**31)
    result = subprocess.run([sys.executable, "-c", CHILD.format(2**11)], check=False)
    del block
    assert result.returncode == 0
