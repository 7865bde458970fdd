from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from zoo import machine
from zoo.serve.bench.gpu import MemoryMeter, describe_gpu, gpu_state, held_down_by, read_state

if TYPE_CHECKING:
    from pathlib import Path

NVIDIA_SMI = """#!/bin/sh
case "$*" in
  *clocks_event_reasons*) KNOWN echo 0x0000000000000024;;
  *clocks_throttle_reasons*) echo 0x0000000000000000;;
  *unknown*) echo 'Field "unknown" is not a valid field to query.'; exit 2;;
  *clocks.sm*) echo '1410 MHz, 1593 MHz, 61, 287.10 W, P0';;
esac
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a program called `nvidia-smi` that answers as the real one does."""
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA_SMI.replace("KNOWN ", ""))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return program


def test_the_state_of_a_gpu_has_clocks_temperature_power_and_what_holds_it_down(nvidia_smi: Path) -> None:
    assert nvidia_smi.is_file()
    assert read_state("0") == {
        "clocks.sm": "1410 MHz",
        "clocks.mem": "1593 MHz",
        "temperature.gpu": "61",
        "power.draw": "287.10 W",
        "pstate": "P0",
        "held_down_by": ["power cap", "thermal, by the driver"],
    }


def test_older_drivers_call_the_reasons_throttling(nvidia_smi: Path) -> None:
    nvidia_smi.write_text(NVIDIA_SMI.replace("KNOWN ", "exit 2;"))
    assert read_state("0")["held_down_by"] == []


def test_a_field_that_the_driver_does_not_know_is_left_out(nvidia_smi: Path) -> None:
    assert nvidia_smi.is_file()
    assert machine.nvidia_smi(("unknown",), "0") == {}


def test_nothing_is_required_of_a_machine_without_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_state("0") == {}


def test_a_mask_that_is_no_number_is_shown_as_it_is() -> None:
    assert held_down_by("[N/A]") == ["[N/A]"]
    assert held_down_by("0x1") == ["idle"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_there_is_nothing_to_describe() -> None:
    assert describe_gpu() is None
    assert gpu_state() is None


@pytest.mark.gpu
def test_the_memory_of_a_predictor_is_what_it_adds_and_its_peak_what_it_takes_on_the_way() -> None:
    meter = MemoryMeter()
    kept = []
    with meter.watch():
        kept.append(torch.empty(64 << 20, dtype=torch.uint8, device="cuda"))
    assert 60 << 20 < meter.held < 90 << 20
    with meter.watch():
        torch.empty(128 << 20, dtype=torch.uint8, device="cuda")
    assert 180 << 20 < meter.peak < 240 << 20
    assert meter.held < 90 << 20
