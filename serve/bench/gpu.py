"""State of the GPU: clocks, temperature and power from `nvidia-smi`, and memory."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from zoo.machine import nvidia_smi

if TYPE_CHECKING:
    from collections.abc import Iterator

FACTS = (
    "driver_version",
    "clocks.max.sm",
    "clocks.max.mem",
    "power.limit",
    "power.default_limit",
    "mig.mode.current",
)
STATE = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "pstate")
HELD_DOWN = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")  # since and before driver 535

REASONS = {
    0x1: "idle",
    0x2: "clocks set by an application",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "thermal, by the driver",
    0x40: "thermal, by the hardware",
    0x80: "power brake",
    0x100: "display clocks",
}
"""Reasons for reduced clocks by bit (NVML's `nvmlClocksEventReason…`)."""


def describe_gpu() -> dict[str, Any] | None:
    """Return PyTorch's GPU with driver, maximum clocks and power limit; None without one."""
    if not torch.cuda.is_available():
        return None
    gpu: dict[str, Any] = {"name": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    gpu["fp32_convolutions"] = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return gpu | nvidia_smi(FACTS, _identifier())


def gpu_state() -> dict[str, Any] | None:
    """Return clocks, temperature, power and reasons for reduced clocks; None without a GPU."""
    return read_state(_identifier()) if torch.cuda.is_available() else None


def read_state(gpu: str) -> dict[str, Any]:
    """Return the state of a GPU, empty without `nvidia-smi`.

    Args:
        gpu: index or UUID of the GPU.
    """
    state: dict[str, Any] = nvidia_smi(STATE, gpu)
    for field in HELD_DOWN:
        if found := nvidia_smi((field,), gpu):
            return state | {"held_down_by": held_down_by(found[field])}
    return state


def held_down_by(mask: str) -> list[str]:
    """Return the reasons in a bit mask of `nvidia-smi`.

    Example:
        >>> held_down_by("0x0000000000000024")
        ['power cap', 'thermal, by the driver']
    """
    try:
        bits = int(mask, 16)
    except ValueError:  # "[N/A]" and the like
        return [mask]
    return [reason for bit, reason in REASONS.items() if bits & bit]


class MemoryMeter:
    """Meter of the GPU memory that a predictor uses, whichever runtime allocates it.

    It watches the used memory of the whole GPU, so that other processes on it would be counted. PyTorch's
    free blocks are released before and after; those in use meanwhile count towards the peak.
    """

    def __init__(self) -> None:
        self.held = 0
        self.peak = 0
        torch.cuda.synchronize()  # creates the context, which does not count

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Attribute allocations inside the block to the predictor."""
        before = _used()
        yield
        self.peak = self.held + _used(give_back=False) - before
        self.held += _used() - before


def _used(*, give_back: bool = True) -> int:
    """Return the bytes in use on the current GPU."""
    torch.cuda.synchronize()
    if give_back:
        torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return total - free


def _identifier() -> str:
    """Return the UUID of the current GPU, whose index may differ in `nvidia-smi`."""
    return f"GPU-{torch.cuda.get_device_properties().uuid}"
