"""What the methods with discriminators share (s4GAN, RRN): feature matching, and the two sides of the game.

One backward pass of the summed losses serves both sides: the generator's use of a discriminator stands under
`frozen`, the discriminator's own loss takes detached predictions, so neither sends gradient to the other.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.classes import IGNORE
from zoo.train.optim import Beta, OptimizerConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoo.models.encoder import Encoder

ImageNorm = Literal["fixed", "batch_minmax"]


class DiscriminatorOptimizerConfig(OptimizerConfig):
    """The optimiser of a discriminator; defaults are those of both papers."""

    of_encoders: ClassVar[bool] = False
    name: Literal["adamw", "adam", "sgd"] = "adam"
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.99)


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


def unit_range(images: Tensor, norm: ImageNorm, encoder: Encoder, valid: Tensor) -> Tensor:
    """Return images brought to [0, 1] for a discriminator.

    Args:
        images: (B, 3, H, W) float, normalised.
        norm: `fixed` undoes the normalisation; `batch_minmax` maps the extremes of the whole batch to 0 and
            1, as the authors of s4GAN and RRN do.
        encoder: whose `mean` and `std` the images are normalised by.
        valid: (B, H, W) bool, False in padding, which sets no extreme.
    """
    if norm == "batch_minmax":
        inside = valid.unsqueeze(1)
        low, high = images.where(inside, torch.inf).amin(), images.where(inside, -torch.inf).amax()
        return (images - low) / (high - low).clamp(min=1e-6)
    channels = zip(images.unbind(dim=1), encoder.mean, encoder.std, strict=True)
    return torch.stack([channel * std + mean for channel, mean, std in channels], dim=1)


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


def discriminator_loss(
    discriminator: nn.Module, real: Tensor, fake: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Return the binary cross entropy of a discriminator over its decisions, half for each kind of pair.

    It is s4GAN's Eq. (5) with its sign turned. One pass judges both kinds; none but the discriminator gets a
    gradient.

    Args:
        discriminator: the `Discriminator` that is trained.
        real: (B, K + 3, H, W) float, pairs of label and image.
        fake: (B', K + 3, H, W) float, pairs of prediction and image.
        valid: (B + B', H, W) bool, False in padding of the real pairs and the fake ones; None if there is
            none.
    """
    judged = discriminator(torch.cat([real, fake.detach()]), valid)
    score_real, score_fake = judged.score.split([len(real), len(fake)])
    weight_real, weight_fake = judged.weight.split([len(real), len(fake)])
    return (adversarial_loss(score_real, weight_real) + adversarial_loss(-score_fake, weight_fake)) / 2


def adversarial_loss(score: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean of -log p(real): a discriminator's of real pairs, a generator's of its own (SGAN).

    Args:
        score: logits of being real, any shape.
        weight: of each score, of its shape; None for the same.
    """
    loss = F.softplus(-score)
    return loss.mean() if weight is None else (loss * weight).sum() / weight.sum().clamp(min=1e-6)


def self_training(logits: Tensor, weight: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return the cross entropy against the prediction's own classes, weighted, per counted pixel.

    Args:
        logits: (B, K, H, W) float.
        weight: broadcastable to (B, H, W), >= 0; zero everywhere gives a zero with a gradient.
        counted: (B, H, W) bool, the pixels whose number divides the sum; None for those with a weight.
    """
    loss = F.cross_entropy(logits, logits.detach().argmax(dim=1), reduction="none")
    weight = weight.expand_as(loss)
    counted = weight > 0 if counted is None else counted
    return (weight * loss).sum() / counted.sum().clamp(min=1)
