"""What a measurement is made on: processor, GPU, load, versions, and what is set for its time."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch._dynamo  # not part of `import torch`

from zoo import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = {
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13"),
}
"""The names under which each runtime is distributed."""

GPU_FIELDS = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "power.limit", "temperature.gpu")


def describe_machine() -> dict[str, Any]:
    """Return processor, cores and the GPU or None, ready for JSON."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load": load_average(),
        "gpu": describe_gpu(),
    }


def cpu_model() -> str:
    """Return the name of the processor as its maker writes it, or what the system knows of it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def load_average() -> float | None:
    """Return the number of busy processes in the last minute, or None where the system does not count."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def describe_gpu() -> dict[str, Any] | None:
    """Return the first GPU that PyTorch can use, with driver, clocks and power as `nvidia-smi` has them."""
    if not torch.cuda.is_available():
        return None
    gpu: dict[str, Any] = {"name": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    gpu["fp32_convolutions"] = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    program = shutil.which("nvidia-smi")
    if program is not None:
        query = [program, f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader", "--id=0"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False).stdout
        gpu |= dict(zip(GPU_FIELDS, (field.strip() for field in answer.split(",")), strict=False))
    return gpu


def versions() -> dict[str, str | None]:
    """Return the version of this package, of Python and of each runtime, None where it is not installed."""
    found = {name: next(filter(None, map(_version, names)), None) for name, names in PACKAGES.items()}
    return {"zoo": __version__, "python": platform.python_version(), **found}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@contextmanager
def compiler_for(shapes: int) -> Iterator[None]:
    """Let `torch.compile` work on this many shapes of all models; it would give up after eight."""
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=max(shapes, torch._dynamo.config.recompile_limit)):
        yield


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let PyTorch use this many threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
