"""`zoo doctor`: what this machine can do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.commands.console import AsJson, emit, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table


def doctor(as_json: AsJson = False) -> None:
    """Show what this machine can do, and which device, precision and backends follow.

    --json is meant for bug reports: it has no paths, host or user names.
    """
    from zoo.doctor import diagnose, folders

    found = diagnose()
    emit(found, *_report(found, folders()), as_json=as_json)


def _report(found: dict[str, Any], folders: dict[str, Path]) -> list[Any]:
    """Return the terminal output: machine, packages, caches, choices and problems."""
    chosen = [(each["topic"], each["choice"], each["reason"]) for each in found["choices"]]
    problems = [f"Problem: {problem}" for problem in found["problems"]] or ["No problems found."]
    return [
        _left("This machine", ("", "found"), [*_machine(found), *_packages(found), *_caches(found, folders)]),
        _left("What follows", ("", "choice", "because"), chosen),
        *problems,
    ]


def _left(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table with left-aligned columns."""
    result = table(title, columns, rows)
    for column in result.columns:
        column.justify = "left"
    return result


def _machine(found: dict[str, Any]) -> list[tuple[str, str]]:
    cpu, ram, gpu = found["processor"], found["memory"], found["gpu"]
    devices = [
        f"{each['name']}, {_gib(each['memory_mib'])}, compute capability {each['capability']}"
        for each in gpu["devices"]
    ]
    driver = "none: no NVIDIA driver" if gpu["driver"] is None else f"driver {gpu['driver']}, no usable GPU"
    if devices:
        driver = "; ".join([*devices, f"driver {gpu['driver']}"])
    return [
        ("system", found["system"]),
        ("processor", cpu.get("model", "unknown")),
        ("cores", _cores(cpu)),
        ("instruction sets", _names(cpu.get("instructions"))),
        ("memory", f"{_gib(ram.get('free_mib'))} free of {_gib(ram.get('total_mib'))}"),
        ("disk", ", ".join(f"{gb:,.1f} GB free {name}" for name, gb in found["disk_free_gb"].items())),
        ("GPU", driver),
    ]


def _cores(cpu: dict[str, Any]) -> str:
    if not cpu:
        return "unknown"
    allowed, all_ = cpu["cores"], cpu["cores_of_machine"]
    quota = "" if cpu["quota"] is None else f", quota {cpu['quota']:g}"
    return f"{allowed} of {all_} allowed{quota}" if allowed < all_ else f"{allowed}{quota}"


def _packages(found: dict[str, Any]) -> list[tuple[str, str]]:
    there = [name for name, lacks in found["extras"].items() if not lacks]
    absent = [name for name, lacks in found["extras"].items() if lacks]
    versions = {name: version for name, version in found["versions"].items() if version}
    cuda = found["gpu"]["cuda_of_pytorch"]
    return [
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown"),
        ("PyTorch is built for", f"CUDA {cuda}" if cuda else "the CPU"),
        ("ONNX Runtime providers", _names(found["onnxruntime"])),
        ("TensorRT", _names(list(found["tensorrt"].values()))),
        ("extras", f"{_names(there)}; not installed: {_names(absent)}"),
    ]


def _caches(found: dict[str, Any], folders: dict[str, Path]) -> list[tuple[str, str]]:
    return [(name, f"{_gb(size)}, {folders[name]}") for name, size in found["caches"].items()]


def _gb(size: dict[str, Any]) -> str:
    if not size:
        return "empty"
    return f"{size['gb']:,.1f} GB" if size["complete"] else f"more than {size['gb']:,.1f} GB"


def _gib(mib: float | None) -> str:
    return "unknown" if mib is None else f"{mib / 1024:,.1f} GiB"


def _names(names: Sequence[str] | None) -> str:
    return "unknown" if names is None else ", ".join(names) or "none"
