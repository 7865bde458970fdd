"""How many NVIDIA GPUs there are, without PyTorch."""

from __future__ import annotations

import ctypes
import os

from zoo.machine import cuda_driver


def gpu_count() -> int:
    """Return how many GPUs this process may use, as `CUDA_VISIBLE_DEVICES` says; 0 without a driver."""
    cuda = cuda_driver()
    count = ctypes.c_int()
    if cuda is None or cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
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
