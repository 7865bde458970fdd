"""Machine of a measurement: processor, GPU, load, and temporary settings."""

from __future__ import annotations

import logging
import os
import platform
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch._dynamo  # not part of `import torch`

from zoo.machine import cpu_model
from zoo.serve.bench.gpu import describe_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator


def describe_machine() -> dict[str, Any]:
    """Return processor, cores and GPU (or None) for JSON."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load": load_average(),
        "gpu": describe_gpu(),
    }


def load_average() -> float | None:
    """Return the load average of the last minute, None if the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


@contextmanager
def compiler_for(shapes: int) -> Iterator[None]:
    """Allow `torch.compile` this many shapes over all models; by default it gives up after eight."""
    torch.compiler.reset()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns without a GPU
    with torch._dynamo.config.patch(recompile_limit=max(shapes, torch._dynamo.config.recompile_limit)):
        yield


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Set PyTorch's number of threads in the block, and restore it afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
