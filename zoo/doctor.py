"""Facts about this machine and its packages, and the choices of `zoo` that follow (`zoo doctor`).

Every fact is optional: what is absent is None or empty, and a probe that fails is listed under `unreadable`.
PyTorch takes seconds to import, so only a machine with an NVIDIA driver imports it.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import tempfile
import time
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub import constants

from zoo.machine import (
    cores,
    cpu_flags,
    cpu_model,
    cpu_quota,
    cuda_driver,
    gpu_precision,
    machine_cores,
    nvidia_smi,
    pixel_cache,
)
from zoo.memory import MIB, free_ram_mib, total_ram_mib
from zoo.predictors.backends import BACKENDS, Device, version_of, versions
from zoo.predictors.runtimes.trt_api import TITLES, installed_flavors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from packaging.requirements import Requirement

PACKAGE = "semiseg-zoo"

WALK_S = 0.25
"""Time limit of measuring one folder."""

INSTRUCTIONS = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "bf16": ("avx512_bf16", "bf16"),
    "AMX int8": ("amx_int8",),
    "AMX bf16": ("amx_bf16",),
    "dot product": ("asimddp",),
    "int8 matrices": ("i8mm",),
}
"""Flags of Linux that stand for an instruction set, one of which is enough."""

INT8 = ("VNNI", "AMX int8", "dot product", "int8 matrices")
BF16 = ("bf16", "AMX bf16")
"""Instruction sets that make the precision faster on a CPU."""

LEAST_DISK_GB, LEAST_RAM_MIB = 5.0, 4096.0
"""Free disk and memory below which training or export is likely to fail."""

LEFT_OUT = (
    "Left out: host and user names, paths, environment variables, serial numbers, names of images and runs."
)


class Choice(NamedTuple):
    """What `zoo` does, or what to select, on this machine, and the reason."""

    topic: str
    choice: str
    reason: str


def diagnose() -> dict[str, Any]:
    """Return the facts, the choices and the problems, ready for JSON.

    Nothing names a user, a host or a path; `folders` has the paths of the caches.
    """
    unreadable: dict[str, str] = {}

    def read(name: str, probe: Callable[[], Any], absent: Any) -> Any:
        try:
            return probe()
        except Exception as error:  # a broken package may raise anything
            unreadable[name] = f"{type(error).__name__}: {without_paths(str(error))}"
            return absent

    facts: dict[str, Any] = {
        "versions": read("versions", versions, {}),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": read("processor", processor, {}),
        "memory": read("memory", memory, {}),
        "disk_free_gb": read("disk", disk, {}),
        "gpu": read("gpu", gpu, {"driver": None, "devices": [], "cuda_of_pytorch": None}),
        "onnxruntime": read("onnxruntime", providers, []),
        "tensorrt": read("tensorrt", lambda: {flavor: TITLES[flavor] for flavor in installed_flavors()}, {}),
        "backends": read("backends", backends, {}),
        "extras": read("extras", extras, {}),
        "requirements": read("requirements", lambda: missing(None), []),
        "caches": {name: read(name, partial(size, folder), {}) for name, folder in folders().items()},
    }
    facts["unreadable"] = unreadable
    facts["choices"] = [choice._asdict() for choice in choices(facts)]
    facts["problems"] = problems(facts)
    return facts | {"left_out": LEFT_OUT}


def without_paths(message: str) -> str:
    """Return a message in one line, with paths shortened to their last part.

    Example:
        >>> without_paths("/srv/me/lib/libx.so: cannot open")
        'libx.so: cannot open'
    """
    return " ".join(
        re.sub(r"(?<![\w/])(?:[A-Za-z]:)?(?:[/\\][^/\\\s:'\"]+)*[/\\](?=[^/\\\s])", "", message).split()
    )


def processor() -> dict[str, Any]:
    """Return model, cores and instruction sets; `instructions` is None where they are not listed."""
    flags = cpu_flags()
    known = [name for name, any_of in INSTRUCTIONS.items() if flags.intersection(any_of)]
    return {
        "model": cpu_model(),
        "cores": cores(),
        "cores_of_machine": machine_cores(),
        "quota": cpu_quota(),
        "instructions": known if flags else None,
    }


def memory() -> dict[str, float | None]:
    """Return the memory of the machine and what this process may still use, in MiB."""
    return {"total_mib": _rounded(total_ram_mib()), "free_mib": _rounded(free_ram_mib())}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def disk() -> dict[str, float]:
    """Return the free space of the working folder and of temporary files in GB."""
    places = {"here": Path.cwd(), "for temporary files": Path(tempfile.gettempdir())}
    return {name: round(shutil.disk_usage(place).free / 1e9, 1) for name, place in places.items()}


def gpu() -> dict[str, Any]:
    """Return driver, devices that PyTorch sees, and the CUDA version that PyTorch is built for."""
    if cuda_driver() is None:
        return {"driver": None, "devices": [], "cuda_of_pytorch": _cuda_of_pytorch()}
    found = nvidia_smi(("driver_version",), "0").get("driver_version", "of unknown version")
    if importlib.util.find_spec("torch") is None:
        return {"driver": found, "devices": [], "cuda_of_pytorch": None}
    import torch

    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "driver": found,
        "devices": [
            {
                "name": device.name,
                "memory_mib": round(device.total_memory / MIB),
                "capability": f"{device.major}.{device.minor}",
            }
            for device in devices
        ],
        "cuda_of_pytorch": torch.version.cuda,
    }


def _cuda_of_pytorch() -> str | None:
    """Return the CUDA version that PyTorch is built for, without importing it; None for a CPU build."""
    spec = importlib.util.find_spec("torch")
    file = None if spec is None or spec.origin is None else Path(spec.origin).with_name("version.py")
    if file is None or not file.is_file():
        return None
    found = re.search(r"^cuda\b.*= '([\d.]+)'", file.read_text(encoding="utf-8"), re.MULTILINE)
    return None if found is None else found[1]


def providers() -> list[str]:
    """Return the execution providers that ONNX Runtime is built with; none if it is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return []
    import onnxruntime  # type: ignore[import-untyped]

    return [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]


def backends() -> dict[str, bool]:
    """Return whether the packages of each backend are installed."""
    return {name: row.is_installed for name, row in BACKENDS.items()}


def extras() -> dict[str, list[str]]:
    """Return what each extra lacks; an installed one lacks nothing."""
    names = metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    return {name: missing(name) for name in sorted(names)}


def missing(extra: str | None) -> list[str]:
    """Return the requirements of an extra, or those of the package itself, that are not satisfied."""
    return [str(each).partition(";")[0].strip() for each in _requirements(extra) if not _is_satisfied(each)]


def _requirements(extra: str | None) -> Iterator[Requirement]:
    from packaging.requirements import Requirement

    for text in metadata.requires(PACKAGE) or []:
        requirement = Requirement(text)
        marker = requirement.marker
        applies = marker is None or marker.evaluate({"extra": extra or ""})
        of_extra = marker is not None and "extra" in str(marker)
        if not applies or of_extra != (extra is not None):
            continue
        if requirement.name == PACKAGE:
            for other in requirement.extras:
                yield from _requirements(other)
        else:
            yield requirement


def _is_satisfied(requirement: Requirement) -> bool:
    version = version_of(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def folders() -> dict[str, Path]:
    """Return the folders that `zoo` fills, by name."""
    return {
        "models and encoders of the Hub (HF_HOME)": Path(constants.HF_HUB_CACHE),
        "decoded images (data.cache_dir)": pixel_cache(),
        "runs of this folder": Path("runs"),
    }


def size(folder: Path) -> dict[str, Any]:
    """Return the size of a folder in GB, and whether that is all of it; empty if it does not exist."""
    if not folder.is_dir():
        return {}
    end, total, waiting = time.monotonic() + WALK_S, 0, [folder]
    while waiting and time.monotonic() < end:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:  # removed meanwhile, or not readable
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif not entry.is_symlink():
                total += entry.stat(follow_symlinks=False).st_size
    return {"gb": round(total / 1e9, 3), "complete": not waiting}


def choices(facts: dict[str, Any]) -> list[Choice]:
    """Return what follows from the facts: device, precision, backends, exports and int8."""
    devices = facts["gpu"]["devices"]
    return [
        _device(facts["gpu"]),
        *(
            [Choice("several GPUs", f"zoo train --devices {len(devices)}", "one process a GPU")]
            if len(devices) > 1
            else []
        ),
        _precision(facts),
        *_backend(facts),
        _int8(facts),
    ]


def _device(found: dict[str, Any]) -> Choice:
    if found["devices"]:
        return Choice("device", "cuda", f"PyTorch sees {found['devices'][0]['name']}")
    reason = "no NVIDIA driver" if found["driver"] is None else "PyTorch sees no GPU"
    return Choice("device", "cpu", reason)


def _precision(facts: dict[str, Any]) -> Choice:
    topic = "precision of training"
    if devices := facts["gpu"]["devices"]:
        found, reason = gpu_precision(tuple(map(int, devices[0]["capability"].split("."))))
        return Choice(topic, "fp32, the default" if found == "fp32" else f"--precision {found}", reason)
    fast = _of(facts, BF16)
    if fast:
        return Choice(
            topic,
            "--precision auto",
            f"the processor has {', '.join(fast)}: bf16 if it is measured to be faster",
        )
    return Choice(topic, "fp32, the default", _lacks(facts, "bf16 instructions"))


def _backend(facts: dict[str, Any]) -> list[Choice]:
    """Return the order in which `zoo serve` tries backends here, and what `zoo export` should write."""
    device: Device = "cuda" if facts["gpu"]["devices"] else "cpu"
    ranked = sorted((row.rank[device], name) for name, row in BACKENDS.items() if device in row.rank)
    here = [name for _, name in ranked if facts["backends"].get(name)]
    absent = [name for _, name in ranked if name not in here]
    reason = "the first that has a file in the bundle"
    if absent:
        reason += f"; not installed: {', '.join(absent)}"
    export = Choice("export", "zoo export --onnx", "no TensorRT")
    if device == "cpu":
        export = export._replace(reason="TensorRT needs an NVIDIA GPU")
    elif "trt" in here:
        export = Choice("export", "zoo export --onnx --trt", "a GPU and TensorRT")
    return [Choice("backends of zoo serve", ", ".join(here) or "none", reason), export]


def _int8(facts: dict[str, Any]) -> Choice:
    measure = "zoo export --precision auto measures it"
    if facts["gpu"]["devices"]:
        if facts["tensorrt"]:
            return Choice("int8", "worth trying with TensorRT", measure)
        return Choice("int8", "not worth it without TensorRT", "ONNX Runtime's CUDA provider gains nothing")
    fast = _of(facts, INT8)
    if fast:
        return Choice("int8", "worth it", f"the processor has {', '.join(fast)}; {measure}")
    return Choice("int8", "rarely worth it", f"{_lacks(facts, 'int8 instructions')}; {measure}")


def _of(facts: dict[str, Any], wanted: tuple[str, ...]) -> list[str]:
    return [name for name in wanted if name in (facts["processor"].get("instructions") or ())]


def _lacks(facts: dict[str, Any], what: str) -> str:
    known = facts["processor"].get("instructions") is not None
    return f"the processor has no {what}" if known else f"this system does not list {what}"


def problems(facts: dict[str, Any]) -> list[str]:
    """Return what would fail or be slow, each with what to do."""
    found = [f"{name} cannot be read: {why}" for name, why in facts["unreadable"].items()]
    if facts["requirements"]:
        quoted = " ".join(f"'{name}'" for name in facts["requirements"])
        found.append(f"required packages are missing or too old: pip install {quoted}")
    driver, cuda = facts["gpu"]["driver"], facts["gpu"]["cuda_of_pytorch"]
    if driver is not None and not facts["gpu"]["devices"]:
        why = (
            f"PyTorch is built for CUDA {cuda}, which driver {driver} may be too old for: update the driver"
            if cuda
            else "PyTorch is built for the CPU: install its CUDA build"
        )
        found.append(
            f"there is an NVIDIA driver, but PyTorch sees no GPU: {why}, or unset CUDA_VISIBLE_DEVICES"
        )
    if version_of("onnxruntime") and version_of("onnxruntime-gpu"):
        found.append(
            "onnxruntime and onnxruntime-gpu overwrite each other: pip uninstall both, then install one"
        )
    short = [name for name, free in facts["disk_free_gb"].items() if free < LEAST_DISK_GB]
    if short:
        found.append(f"less than {LEAST_DISK_GB:.0f} GB of disk are free {' and '.join(short)}: make room")
    free = facts["memory"].get("free_mib")
    if free is not None and free < LEAST_RAM_MIB:
        found.append(f"only {free:,.0f} MiB of memory are free: zoo train --plan says what a run needs")
    return found
