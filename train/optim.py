"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch.optim import SGD, Adam, AdamW, Optimizer

from zoo.frozen import Frozen
from zoo.models.encoder import Encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn

    from zoo.models.error_localizer import ErrorLocalizer
    from zoo.models.segmentation import SegmentationNetwork

Beta = Annotated[float, Field(ge=0, lt=1)]
Schedule = Literal["constant", "poly", "cosine"]

SCHEDULES: dict[Schedule, Callable[[float], float]] = {
    "constant": lambda done: 1.0,  # noqa: ARG005
    "poly": lambda done: (1 - done) ** 0.9,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
}


class OptimizerConfig(Frozen):
    """Settings of an optimizer and its learning-rate schedule.

    Args:
        name: `adamw`, `adam` or `sgd`.
        lr: initial learning rate of the decoders.
        weight_decay: weight decay of the parameters that `decay` selects.
        decay: `all` for all parameters, `weights` to leave out biases and BatchNorm.
        momentum: momentum of SGD.
        nesterov: whether SGD uses Nesterov momentum.
        betas: betas of Adam.
        encoder_lr_mult: ratio of the encoders' learning rate to `lr`.
        layer_decay: factor on the learning rate of an encoder's parameters for each layer above them, as in
            BEiT; the norm after the last block keeps the encoder's rate.
        schedule: `constant`, `poly` (power 0.9) or `cosine`, over the steps of the run.
        floor: share of the learning rate at which `poly` and `cosine` end.
    """

    of_encoders: ClassVar[bool] = True
    """Whether it has encoders, to which `encoder_lr_mult` applies."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(1e-5, ge=0)
    decay: Literal["all", "weights"] = "all"
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    encoder_lr_mult: float = Field(0.1, ge=0)
    layer_decay: float = Field(1.0, gt=0, le=1)
    schedule: Schedule = "constant"
    floor: float = Field(0, ge=0, le=1)

    def groups(self, network: SegmentationNetwork | ErrorLocalizer) -> list[tuple[nn.Module, float]]:
        """Return encoder and decoder of a network with their factors on the learning rate, for `build`."""
        return [(network.encoder, self.encoder_lr_mult), (network.decoder, 1.0)]

    def build(self, groups: Iterable[tuple[nn.Module, float]]) -> Optimizer:
        """Return the optimizer of these modules, each with a factor on the learning rate.

        Parameters without gradient are left out. Adam is fused: one kernel for many parameters. SGD is not,
        because PyTorch's fused SGD fails if parameters get their first gradient later than others (U2PL's
        head).
        """
        parameters: list[dict[str, Any]] = [
            {
                "params": group,
                "lr": self.lr * factor * share,
                "initial_lr": self.lr * factor * share,
                "schedule": self.schedule,
                "floor": self.floor,
                "weight_decay": decay,
            }
            for module, factor in groups
            for trained, share in self._by_layer(module)
            for group, decay in self._split(trained)
        ]
        if self.name == "sgd":
            return SGD(parameters, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)
        adam: type[Adam] = {"adamw": AdamW, "adam": Adam}[self.name]
        return adam(parameters, lr=self.lr, betas=self.betas, fused=True)

    def _by_layer(self, module: nn.Module) -> list[tuple[list[nn.Parameter], float]]:
        """Return the trained parameters of a module by layer, each with its share of the learning rate."""
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if self.layer_decay == 1 or not isinstance(module, Encoder):
            return [(list(trained.values()), 1.0)]
        above = module.layers_above()
        return [
            ([p for name, p in trained.items() if above[name] == layers], self.layer_decay**layers)
            for layers in sorted({above[name] for name in trained})
        ]

    def _split(self, trained: list[nn.Parameter]) -> list[tuple[list[nn.Parameter], float]]:
        """Return parameters with their weight decay."""
        if self.decay == "all":
            return [(trained, self.weight_decay)]
        # biases and BatchNorm's scales and shifts are one-dimensional
        weights = [p for p in trained if p.ndim > 1]
        others = [p for p in trained if p.ndim <= 1]
        return [(weights, self.weight_decay), (others, 0.0)]


def set_learning_rates(optimizers: Iterable[Optimizer], step: int, steps: int) -> None:
    """Set each group's learning rate for a step (0-based) of a run of `steps`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            share = SCHEDULES[group["schedule"]](step / steps)
            group["lr"] = group["initial_lr"] * (group["floor"] + (1 - group["floor"]) * share)
