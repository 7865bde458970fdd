"""The most memory this process has held: on a GPU what PyTorch allocated, on the CPU what was resident."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from typing import Any

import torch

MIB = 2**20
KIND = {"cuda": "allocated on the GPU by PyTorch", "cpu": "resident set of the training process"}

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")
MACHINE = Path("/proc/meminfo")
GROUPS = [
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
]
"""Where control groups of version 2 and 1 keep limit, use, and the name of file pages in `memory.stat`."""
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


def release(device: torch.device) -> None:
    """Give back to the system what is kept for reuse, so that the next peak owes nothing to former ones."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):  # of glibc
        ctypes.CDLL(None).malloc_trim(0)


def held_mib(device: torch.device) -> float | None:
    """Return what is held now, in MiB; None where the system does not count."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / MIB
    return _of_status("VmRSS:")


def free_mib(device: torch.device) -> float | None:
    """Return what this process could take beyond what it holds, in MiB; None where the system does not count.

    On the CPU the least of what the machine has and what its control group may have.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / MIB
    found = [value for value in (_of_machine(), _of_group()) if value is not None]
    return min(found, default=None)


def _of_status(name: str) -> float | None:
    """Return a figure of `STATUS` in MiB."""
    if not STATUS.is_file():
        return None
    lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), None)


def _of_machine() -> float | None:
    if not MACHINE.is_file():
        return None
    lines = MACHINE.read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable")), None)


def _of_group() -> float | None:
    """Return what the control group of this process leaves, None without a limit.

    Pages of files that were not used for a while are given back when others are asked for.
    """
    for folder, limit, used, cached in GROUPS:
        if (folder / limit).is_file() and (folder / used).is_file():
            text = (folder / limit).read_text(encoding="ascii").strip()
            lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
            given_back = sum(int(line.split()[1]) for line in lines if line.startswith(f"{cached} "))
            held = int((folder / used).read_text(encoding="ascii")) - given_back
            return None if text == "max" else (int(text) - held) / MIB
    return None


def _peak_resident_bytes() -> int | None:
    if STATUS.is_file():  # unlike getrusage, it does not start from what the parent process held
        peak_of_status = _of_status("VmHWM:")
        return None if peak_of_status is None else round(peak_of_status * MIB)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
