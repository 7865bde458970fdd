"""Where a command runs its model."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

DeviceOption = Annotated[
    Literal["cpu", "cuda"] | None, typer.Option(help="Default: a GPU if PyTorch finds one, else the CPU.")
]


def choose_device(device: str | None) -> str:
    """Return the device that is asked for, or the default; results say what they ran on."""
    if device:
        return device
    from zoo.machine import cuda_driver

    if cuda_driver() is None:  # there is no need to load PyTorch to ask it
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
