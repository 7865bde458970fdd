"""Optimisers and learning-rate schedules: a name in each parameter group and a function of the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch.optim import SGD, AdamW, Optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn

Schedule = Literal["constant", "poly", "cosine"]

SCHEDULES: dict[Schedule, Callable[[float], float]] = {
    "constant": lambda done: 1.0,  # noqa: ARG005
    "poly": lambda done: (1 - done) ** 0.9,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
}


class OptimizerConfig(BaseModel):
    """One optimiser.

    Args:
        name: `adamw` or `sgd`.
        lr: learning rate of the decoders, at the start.
        weight_decay: of all parameters.
        momentum: of SGD.
        encoder_lr_mult: learning rate of the encoders over `lr`.
        schedule: `constant`, `poly` (power 0.9) or `cosine`, over the steps of the run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(1e-5, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    encoder_lr_mult: float = Field(0.1, ge=0)
    schedule: Schedule = "constant"

    def build(self, groups: Iterable[tuple[nn.Module, float]]) -> Optimizer:
        """Return the optimiser of these modules, each with a factor on the learning rate.

        Parameters without gradient are left out.
        """
        parameters: list[dict[str, Any]] = [
            {
                "params": [p for p in module.parameters() if p.requires_grad],
                "lr": self.lr * factor,
                "initial_lr": self.lr * factor,
                "schedule": self.schedule,
            }
            for module, factor in groups
        ]
        if self.name == "sgd":
            return SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        return AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)


def set_learning_rates(optimizers: Iterable[Optimizer], step: int, steps: int) -> None:
    """Set each group's learning rate for a step (0-based) of a run of `steps`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * SCHEDULES[group["schedule"]](step / steps)
