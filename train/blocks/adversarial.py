"""Adversarial losses of the methods with discriminators (s4GAN, RRN), and feature matching.

One backward pass of the summed losses serves both sides: the generator uses a discriminator under `frozen`,
and the discriminator's own loss takes detached predictions, so neither sends gradients to the other.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.classes import IGNORE
from zoo.train.blocks.ema import without_dropout
from zoo.train.optim import Beta, OptimizerConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoo.models.encoder import Encoder

ImageNorm = Literal["fixed", "batch_minmax"]


class DiscriminatorOptimizerConfig(OptimizerConfig):
    """The optimizer of a discriminator; defaults are those of both papers."""

    of_encoders: ClassVar[bool] = False
    name: Literal["adamw", "adam", "sgd"] = "adam"
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.99)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Disable gradients of a module's parameters in the block; gradients still reach its input."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def unit_range(images: Tensor, norm: ImageNorm, encoder: Encoder, valid: Tensor) -> Tensor:
    """Return images scaled to [0, 1] for a discriminator.

    Args:
        images: (B, 3, H, W) float, normalized.
        norm: `fixed` undoes the normalization; `batch_minmax` maps minimum and maximum of the whole batch to
            0 and 1, as in the code of s4GAN and RRN.
        encoder: encoder whose `mean` and `std` the images are normalized by.
        valid: (B, H, W) bool, False in padding, which is left out of minimum and maximum.
    """
    if norm == "batch_minmax":
        inside = valid.unsqueeze(1)
        low, high = images.where(inside, torch.inf).amin(), images.where(inside, -torch.inf).amax()
        return (images - low) / (high - low).clamp(min=1e-6)
    channels = zip(images.unbind(dim=1), encoder.mean, encoder.std, strict=True)
    return torch.stack([channel * std + mean for channel, mean, std in channels], dim=1)


def one_hot(label: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return one-hot labels, (B, K, H, W), all zero for pixels that are `IGNORE`.

    Args:
        label: (B, H, W) int64, 0..K-1 or `IGNORE`.
        num_classes: number of classes K.
        dtype: type of the result.
    """
    known = (label != IGNORE).unsqueeze(1)
    classes = label.unsqueeze(1).where(known, 0)
    shape = (len(label), num_classes, *label.shape[-2:])
    return torch.zeros(shape, dtype=dtype, device=label.device).scatter_(1, classes, known.to(dtype))


def feature_matching(real: Tensor, fake: Tensor) -> Tensor:
    """Return the L1 distance between the mean features of real and fake pairs, averaged over features.

    Args:
        real: (B, D) float, pooled features of real pairs from the discriminator.
        fake: (B', D) float, pooled features of fake pairs.
    """
    return (real.mean(dim=0) - fake.mean(dim=0)).abs().mean()


@torch.no_grad()
def score_without_dropout(discriminator: nn.Module, pairs: Tensor, valid: Tensor) -> Tensor:
    """Return the logits of being real that a discriminator gives with its dropout off.

    Args:
        discriminator: a `Discriminator`.
        pairs: (B, K + 3, H, W) float.
        valid: (B, H, W) bool, False in padding.
    """
    with without_dropout(discriminator):
        score: Tensor = discriminator(pairs, valid).score
    return score


def discriminator_loss(
    discriminator: nn.Module, real: Tensor, fake: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Return the binary cross entropy of a discriminator, the mean of real and fake pairs.

    It is s4GAN's Eq. (5) with opposite sign. One pass scores both kinds of pairs; only the discriminator gets
    gradients.

    Args:
        discriminator: `Discriminator` to train.
        real: (B, K + 3, H, W) float, pairs of label and image.
        fake: (B', K + 3, H, W) float, pairs of prediction and image.
        valid: (B + B', H, W) bool, False in padding of the real and the fake pairs; None without padding.
    """
    judged = discriminator(torch.cat([real, fake.detach()]), valid)
    score_real, score_fake = judged.score.split([len(real), len(fake)])
    weight_real, weight_fake = judged.weight.split([len(real), len(fake)])
    return (adversarial_loss(score_real, weight_real) + adversarial_loss(-score_fake, weight_fake)) / 2


def adversarial_loss(score: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean of -log p(real), for a discriminator on real pairs or a generator on its own (SGAN).

    Args:
        score: logits of being real, any shape.
        weight: weight of each score, of the same shape; None for equal weights.
    """
    loss = F.softplus(-score)
    return loss.mean() if weight is None else (loss * weight).sum() / weight.sum().clamp(min=1e-6)


def self_training(logits: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted cross entropy against the predicted classes, averaged over weighted pixels.

    Args:
        logits: (B, K, H, W) float.
        weight: weights >= 0, broadcastable to (B, H, W); if all are zero, the result is a zero with a
            gradient.
    """
    loss = F.cross_entropy(logits, logits.detach().argmax(dim=1), reduction="none")
    weight = weight.expand_as(loss)
    return (weight * loss).sum() / (weight > 0).sum().clamp(min=1)
