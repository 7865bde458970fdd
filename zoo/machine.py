"""What a run or a measurement is made on: the processor, the installed packages, the state of the code."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

GIT_SECONDS = 10.0
"""A git that takes longer, on a slow network disk, is done without."""


def cuda_driver() -> ctypes.CDLL | None:
    """Return NVIDIA's driver, None if it is not installed: to ask it takes no PyTorch."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def cpu_model() -> str:
    """Return the name of the processor as its maker writes it, or what the system knows of it."""
    import platform

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def installed_packages() -> dict[str, str]:
    """Return the version of every installed distribution by name, in alphabetical order."""
    from importlib import metadata

    found = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    return {name: found[name] for name in sorted(filter(None, found), key=str.lower)}


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the state of the git repository that a folder lies in; None without git or repository.

    Returns:
        `commit` (None before the first), `branch` (None if detached), and `changed`, the number of files
        that git tracks and that differ from the commit; `dirty` if there are any. Untracked files do not
        count: the runs themselves are such.
    """
    import subprocess

    command = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        # without the lock that status takes to refresh the index: others may be at work
        environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.decode("utf-8", errors="replace").splitlines()
    heads = dict(
        line.removeprefix("# branch.").split(" ", 1) for line in lines if line.startswith("# branch.")
    )
    changed = sum(not line.startswith("#") for line in lines)
    commit, branch = heads.get("oid"), heads.get("head")
    return {
        "commit": None if commit == "(initial)" else commit,
        "branch": None if branch == "(detached)" else branch,
        "dirty": changed > 0,
        "changed": changed,
    }


def choose_device(device: str | None) -> str:
    """Return the device that is asked for, or the default; results say what they ran on."""
    if device:
        return device
    from zoo.machine import cuda_driver

    if cuda_driver() is None:  # there is no need to load PyTorch to ask it
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


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
