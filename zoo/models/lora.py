"""Low-rank adaptation of the attention of encoders (LoRA: Hu et al., ICLR 2022).

The weights of attention are parametrizations `W + B A` until they are merged. Modules keep their names, and
code that reads `module.weight`, as timm's BEiT, EVA and Swin v2 do, gets the adapted weights; it would read
past the layers that the package `peft` puts in their place.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zoo.errors import RecipeError
from zoo.models.segmentation import segmentation_networks

if TYPE_CHECKING:
    from collections.abc import Iterator

ATTENTION = ("attention", "attn")
"""Parts of the names of timm's classes of attention, in lower case."""


class LowRank(nn.Module):
    """Parametrization of a weight W as `W + B A`; B starts as zero, so nothing changes at first.

    Args:
        weight: (out, in) or (out, in, 1, 1) float.
        rank: number of rows of A and columns of B.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        outside, inside = weight.flatten(1).shape
        self.down = nn.Parameter(weight.new_empty(rank, inside))
        self.up = nn.Parameter(weight.new_zeros(outside, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight.

        Args:
            weight: (out, in) or (out, in, 1, 1) float.
        """
        return weight + (self.up @ self.down).view_as(weight)


def add_lora(method: nn.Module, rank: int) -> None:
    """Freeze the encoders of all segmentation networks but for new low-rank parts of their attention.

    Raises:
        RecipeError: an encoder has no attention, or there is no segmentation network.
    """
    networks = segmentation_networks(method).values()
    if not networks:
        raise RecipeError(f"lora {rank}: the method trains no segmentation network: leave lora out")
    for network in networks:
        layers = list(_projections(network.encoder))
        if not layers:
            raise RecipeError(
                f"lora {rank}: {network.config.encoder} has no attention, expected a transformer such as "
                f"vit_small_patch14_dinov2: leave lora out, or use --freeze-encoder"
            )
        is_trained = network.is_trained
        network.encoder.requires_grad_(False)
        for layer in layers:
            low_rank = LowRank(layer.weight.detach(), rank).requires_grad_(is_trained)
            parametrize.register_parametrization(layer, "weight", low_rank)


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Replace each parametrization of `add_lora` by the weight that it computes."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight") and isinstance(
            module.parametrizations["weight"][0],  # type: ignore[index]
            LowRank,
        ):
            parametrize.remove_parametrizations(module, "weight")


def _projections(encoder: nn.Module) -> Iterator[Any]:
    """Yield the linear layers, or convolutions of one pixel, that are parts of modules of attention."""
    for module in encoder.modules():
        name = type(module).__name__.lower()
        if any(part in name for part in ATTENTION):
            for child in module.children():
                is_pixel = isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1) and child.groups == 1
                if is_pixel or isinstance(child, nn.Linear):
                    yield child
