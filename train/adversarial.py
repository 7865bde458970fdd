"""What the methods with discriminators share (s4GAN, RRN): feature matching, and the two sides of the game.

One backward pass of the summed losses serves both sides: the generator's use of a discriminator stands under
`frozen`, the discriminator's own loss takes detached predictions, so neither sends gradient to the other.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.classes import IGNORE

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Keep gradients from a module's parameters for a while; they still reach its input."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def one_hot(label: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return (B, K, H, W) with 1 at each pixel's class; pixels that are `IGNORE` are all zero.

    Args:
        label: (B, H, W) int64, 0..K-1 or `IGNORE`.
        num_classes: K.
        dtype: of the result.
    """
    known = (label != IGNORE).unsqueeze(1)
    classes = label.unsqueeze(1).where(known, 0)
    shape = (len(label), num_classes, *label.shape[-2:])
    return torch.zeros(shape, dtype=dtype, device=label.device).scatter_(1, classes, known.to(dtype))


def feature_matching(real: Tensor, fake: Tensor) -> Tensor:
    """Return the L1 distance of the mean features of real and fake pairs, a mean over features.

    Args:
        real: (B, D) float, pooled features of the discriminator.
        fake: (B', D) float.
    """
    return (real.mean(dim=0) - fake.mean(dim=0)).abs().mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the binary cross entropy of a discriminator, half for each kind of pair.

    Args:
        real: logits of real pairs, any shape.
        fake: logits of fake pairs.
    """
    called_real = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    called_fake = F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    return (called_real + called_fake) / 2


def self_training(logits: Tensor, weight: Tensor) -> Tensor:
    """Return the cross entropy against the prediction's own classes, weighted, per pixel that has a weight.

    Args:
        logits: (B, K, H, W) float.
        weight: broadcastable to (B, H, W), float, >= 0; zero everywhere gives a zero with a gradient.
    """
    loss = F.cross_entropy(logits, logits.detach().argmax(dim=1), reduction="none")
    weight = weight.expand_as(loss)
    return (weight * loss).sum() / (weight > 0).sum().clamp(min=1)
