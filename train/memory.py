"""The most memory this process has held: on a GPU what PyTorch allocated, on the CPU what was resident."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

MIB = 2**20
KIND = {"cuda": "allocated on the GPU by PyTorch", "cpu": "resident set of the training process"}

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""What Linux wants written to `RESET` to forget the peak of the resident set (proc(5))."""


def peak_memory(device: torch.device) -> dict[str, Any]:
    """Return the peak so far in MiB, None where the system does not count, and what it is the peak of."""
    return {"mib": peak_mib(device), "kind": KIND[device.type]}


def peak_mib(device: torch.device) -> float | None:
    """Return the peak since the process began, or since the last `reset_peak`, in MiB."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / MIB, 1)
    resident = _peak_resident_bytes()
    return None if resident is None else round(resident / MIB, 1)


def reset_peak(device: torch.device) -> bool:
    """Forget the peak and return whether the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        RESET.write_text(RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def _peak_resident_bytes() -> int | None:
    if STATUS.is_file():  # unlike getrusage, it does not start from what the parent process held
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
