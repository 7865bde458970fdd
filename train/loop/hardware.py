"""Hardware of a run: device, processes, machines."""

from __future__ import annotations

import atexit
import logging
import os
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import distributed
from torch.distributed import is_torchelastic_launched

from zoo.child import is_first
from zoo.errors import RecipeError
from zoo.machine import limit_torch

log = logging.getLogger(__name__)

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True)
class Hardware:
    """Device and processes of a run.

    Under `torchrun`, which starts the processes, its settings determine processes and machines.

    Args:
        device: `cpu` or `cuda`; None for a GPU if there is one.
        devices: number of processes, one for each device.
    """

    device: str | None = None
    devices: int = 1

    def accelerator(self, precision: str) -> str:
        """Return the accelerator, `cuda` or `cpu`.

        Raises:
            RecipeError: a requested GPU is missing, or the device does not support the precision.
        """
        has_gpu = torch.cuda.is_available()
        if self.device == "cuda" and not has_gpu:
            raise RecipeError("--device cuda: torch finds no GPU here, expected one: use --device cpu")
        device = self.device or ("cuda" if has_gpu else "cpu")
        if self.device is None and not has_gpu and is_first():
            log.warning("no GPU found: training on the CPU")
        wanted, here = self.layout()[0], torch.cuda.device_count()
        if device == "cuda" and wanted > here:
            raise RecipeError(f"--devices {wanted}: got {here} GPUs here, expected as many: lower it")
        if precision == "fp16" and device == "cpu":
            raise RecipeError("--precision fp16 needs a GPU, got --device cpu: use bf16 or fp32")
        return device

    def layout(self) -> tuple[int, int]:
        """Return the numbers of processes on this machine, and of machines.

        Raises:
            RecipeError: `--devices` contradicts `torchrun`.
        """
        if not is_torchelastic_launched():
            return self.devices, 1
        here, everywhere = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        if self.devices not in (1, here):
            raise RecipeError(
                f"--devices {self.devices}: torchrun started {here} processes here: leave --devices out"
            )
        return here, everywhere // here

    def fabric(self, precision: str) -> Fabric:
        """Return a launched Fabric.

        Raises:
            RecipeError: the hardware does not match the settings.
        """
        devices, machines = self.layout()
        limit_torch()
        # the phases of a method use different networks, so a step may leave parameters without gradient
        strategy = DDPStrategy(find_unused_parameters=True) if devices * machines > 1 else "auto"
        fabric = Fabric(
            accelerator=self.accelerator(precision),
            devices=devices,
            num_nodes=machines,
            precision=PRECISIONS[precision],  # type: ignore[arg-type]
            strategy=strategy,
        )
        fabric.launch()
        if fabric.world_size > 1:
            atexit.register(_leave_group)
        if not fabric.is_global_zero:
            logging.getLogger("zoo").setLevel(logging.ERROR)  # only the first process logs
        return fabric


def _leave_group() -> None:
    """Destroy the process group: threads of gloo that run at exit would abort the process."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
