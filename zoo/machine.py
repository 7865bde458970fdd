"""The machine: its processor and GPUs, the installed packages, and the git state of the code."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

GIT_SECONDS = 10.0
"""Time limit of `git status`, which may hang on a slow network disk."""


CGROUPS = Path("/sys/fs/cgroup")

MEMBERSHIP = Path("/proc/self/cgroup")

BF16_CAPABILITY, FP16_CAPABILITY = (8, 0), (7, 0)
"""Compute capabilities from which GPUs have tensor cores for the precision."""


def cuda_driver() -> ctypes.CDLL | None:
    """Return the NVIDIA driver library, without loading PyTorch; None if it is not installed."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def gpu_precision(capability: tuple[int, ...]) -> tuple[str, str]:
    """Return the fastest precision of training on a GPU of a compute capability, and the reason."""
    words = f"compute capability {'.'.join(map(str, capability))}"
    if capability >= BF16_CAPABILITY:
        return "bf16", f"tensor cores, {words}"
    if capability >= FP16_CAPABILITY:
        return "fp16", f"tensor cores without bf16, {words}"
    return "fp32", f"no tensor cores, {words}"


def cpu_model() -> str:
    """Return the model name of the processor, or its architecture where the system reports no name."""
    import platform

    return next(_cpu_info("model name"), "") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Return the instruction sets of the processor as Linux names them, none on other systems."""
    return frozenset(next(_cpu_info("flags", "features"), "").split())


def int8_overflows() -> bool:
    """Return whether fast sums of int8 products overflow on this processor: x86 without VNNI."""
    import platform

    return platform.machine() in ("x86_64", "AMD64") and not any("vnni" in flag for flag in cpu_flags())


def _cpu_info(*names: str) -> Iterator[str]:
    """Yield the values of Linux's description of the processors whose names begin so, in lower case."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return (line.partition(":")[2].strip() for line in lines if line.lower().startswith(names))


def cores() -> int:
    """Return the number of cores that this process may use: by affinity and by CPU quota, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else min(allowed, math.ceil(quota))


def fewer_cores() -> int | None:
    """Return `cores()` if it is less than the machine has, which libraries may not notice; else None."""
    allowed = cores()
    return allowed if allowed < machine_cores() else None


def machine_cores() -> int:
    """Return the number of cores of the machine, whether or not this process may use them."""
    return os.cpu_count() or 1


def limit_torch() -> None:
    """Limit PyTorch's threads to `cores()`: it respects the affinity, but not a CPU quota."""
    import torch

    allowed = cores()
    if torch.get_num_threads() > allowed:
        torch.set_num_threads(allowed)


def cpu_quota() -> float | None:
    """Return the CPU quota of this process's cgroups (versions 1 and 2) in cores; None without one.

    The quota of each ancestor holds too. In a container, paths of version 1 may be those of the host.
    """
    try:
        lines = MEMBERSHIP.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        inner = PurePosixPath(path.lstrip("/"))
        mounts = (CGROUPS / controllers, CGROUPS / "cpu") if controllers else (CGROUPS,)
        found += [_quota_of(mount / each) for mount in mounts for each in (inner, *inner.parents)]
    return min(filter(None, found), default=None)


def _quota_of(folder: Path) -> float | None:
    """Return the quota in the files of one cgroup, in cores; None without one."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or `max`
        return None


def installed_packages() -> dict[str, str]:
    """Return the version of each installed distribution by name, in alphabetical order."""
    from importlib import metadata

    found = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    return {name: found[name] for name in sorted(filter(None, found), key=str.lower)}


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the state of the git repository that contains a folder; None without git or a repository.

    Returns:
        `commit` (None before the first), `branch` (None if detached), `changed`, the number of tracked files
        that differ from the commit, and `dirty`, whether there are any. Untracked files do not count, since
        the runs themselves are untracked.
    """
    import subprocess

    command = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        # do not lock the index, which other git processes may be using
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
    """Return the given device, or by default `cuda` if PyTorch finds a GPU and else `cpu`."""
    if device:
        return device
    if cuda_driver() is None:  # saves loading PyTorch
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def gpu_count() -> int:
    """Return the number of GPUs visible to this process (`CUDA_VISIBLE_DEVICES`); 0 without a driver."""
    cuda = cuda_driver()
    count = ctypes.c_int()
    if cuda is None or cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def nvidia_smi(fields: tuple[str, ...], gpu: str) -> dict[str, str]:
    """Return fields of `nvidia-smi --query-gpu`, empty if it is missing or does not support all of them."""
    import shutil
    import subprocess

    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader", f"--id={gpu}"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    if answer.returncode:
        return {}
    return dict(zip(fields, (field.strip() for field in answer.stdout.split(",")), strict=False))


def gpu_of_worker(worker: int, gpus: int) -> str | None:
    """Return the `CUDA_VISIBLE_DEVICES` that gives a worker one GPU; None without GPUs.

    Args:
        worker: index of the worker, from 0.
        gpus: number of visible GPUs.
    """
    if gpus == 0:
        return None
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (visible or [str(index) for index in range(gpus)])[worker % gpus]


def cache_home() -> Path:
    """Return the folder of what `zoo` keeps for a user, which may not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "semiseg-zoo"


def pixel_cache() -> Path:
    """Return the default folder of decoded images on disk (`data.cache=disk`)."""
    return cache_home() / "pixels"
