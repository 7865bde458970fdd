"""Memory of this process, held, peak and free: allocated by PyTorch on a GPU, resident on the CPU.

Figures of the CPU need no PyTorch.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
"""Files of a control group's limit and usage, version 2 and 1, and the key of file pages in `memory.stat`."""
RESET_PEAK = "5"
"""Value that, written to `RESET`, resets the peak of the resident set on Linux (proc(5))."""


def peak_memory(device: torch.device) -> dict[str, Any]:
    """Return the peak so far in MiB, None where the system does not report it, and which memory it counts."""
    return {"mib": peak_mib(device), "kind": KIND[device.type]}


def peak_mib(device: torch.device) -> float | None:
    """Return the peak in MiB since the process started, or since the last `reset_peak`."""
    if device.type == "cuda":
        import torch

        return round(torch.cuda.max_memory_allocated(device) / MIB, 1)
    resident = _peak_resident_bytes()
    return None if resident is None else round(resident / MIB, 1)


def reset_peak(device: torch.device) -> bool:
    """Reset the peak and return whether the system allows it."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        RESET.write_text(RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def release(device: torch.device) -> None:
    """Return cached memory to the system, so that it does not count in the next peak."""
    gc.collect()
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()
    elif sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):  # of glibc
        ctypes.CDLL(None).malloc_trim(0)


def held_mib(device: torch.device) -> float | None:
    """Return the memory held now in MiB; None where the system does not report it."""
    if device.type == "cuda":
        import torch

        return torch.cuda.memory_allocated(device) / MIB
    return _value_in(STATUS, "VmRSS:")


def free_mib(device: torch.device) -> float | None:
    """Return the memory in MiB that this process can still allocate; None where it is not reported."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0] / MIB
    return free_ram_mib()


def free_ram_mib() -> float | None:
    """Return the smaller of the machine's available memory and what the control group leaves, in MiB."""
    found = [value for value in (_value_in(MACHINE, "MemAvailable"), _of_group()) if value is not None]
    return min(found, default=None)


def total_ram_mib() -> float | None:
    """Return the memory of the machine in MiB, without a limit of the control group."""
    return _value_in(MACHINE, "MemTotal")


def _value_in(file: Path, name: str) -> float | None:
    """Return a value of `STATUS` or `MACHINE` in MiB; None on other systems than Linux."""
    if not file.is_file():
        return None
    lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), None)


def _of_group() -> float | None:
    """Return the memory left in the control group of this process in MiB; None without a limit.

    Inactive file pages count as free, because the kernel reclaims them on demand.
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
        peak_of_status = _value_in(STATUS, "VmHWM:")
        return None if peak_of_status is None else round(peak_of_status * MIB)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
