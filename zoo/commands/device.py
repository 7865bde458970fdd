"""Where a command runs its model."""

from __future__ import annotations

import ctypes
import sys
from typing import Annotated, Literal

import typer

DeviceOption = Annotated[
    Literal["cpu", "cuda"] | None, typer.Option(help="Default: a GPU if PyTorch finds one, else the CPU.")
]

DRIVERS = {"win32": "nvcuda.dll"}
"""NVIDIA's library by platform; `libcuda.so.1` elsewhere."""


def choose_device(device: str | None) -> str:
    """Return the device that is asked for, or the default; results say what they ran on."""
    if device:
        return device
    if not has_driver():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def has_driver() -> bool:
    """Return whether NVIDIA's driver is installed: if not, there is no need to load PyTorch to ask it."""
    try:
        ctypes.CDLL(DRIVERS.get(sys.platform, "libcuda.so.1"))
    except OSError:
        return False
    return True
