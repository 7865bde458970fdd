"""How many NVIDIA GPUs there are, without PyTorch."""

from __future__ import annotations

import ctypes
import os
import sys

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def gpu_count() -> int:
    """Return how many GPUs this process may use, as `CUDA_VISIBLE_DEVICES` says; 0 without a driver."""
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError:
        return 0
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def gpu_of_worker(worker: int, gpus: int) -> str | None:
    """Return what `CUDA_VISIBLE_DEVICES` is to be in a worker so that it sees one GPU; None for no change.

    Args:
        worker: its number, from 0.
        gpus: of `gpu_count`.
    """
    if gpus == 0:
        return None
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (visible or [str(index) for index in range(gpus)])[worker % gpus]
