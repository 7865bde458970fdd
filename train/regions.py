"""The regions of RRN: what its discriminators take for real, and what that counts (sections II-B, II-C)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

from zoo.models.deeplab import resize_logits
from zoo.train.adversarial import self_training

if TYPE_CHECKING:
    from torch import Tensor

Upsampling = Literal["nearest", "bilinear"]
Normalisation = Literal["selected", "separate", "all"]


def fooled_regions(score: Tensor, size: torch.Size, threshold: float, upsampling: Upsampling) -> Tensor:
    """Return the pixels that a discriminator takes for real, (B, H, W) bool: rc >= epsilon in Eq. (1).

    Args:
        score: (B, h, w) logits, any grid.
        size: height and width in pixels.
        threshold: epsilon, in [0, 1].
        upsampling: `nearest` enlarges the decisions, `bilinear` the scores before they are decided.
    """
    prob = score.sigmoid().unsqueeze(1)
    if upsampling == "bilinear":
        return (resize_logits(prob, size) >= threshold).squeeze(1)
    return F.interpolate((prob >= threshold).float(), size).squeeze(1) == 1


def region_loss(logits: Tensor, regions: Tensor, valid: Tensor, normalisation: Normalisation) -> Tensor:
    """Return the local selection loss, Eq. (1), or with two discriminators the dynamic one, Eq. (3).

    A pixel weighs as much as the number of discriminators that take its region for real.

    Args:
        logits: (B, K, H, W) float.
        regions: (D, B, H, W) bool, what each discriminator takes for real; nothing in padding.
        valid: (B, H, W) bool, False in padding.
        normalisation: the sum is divided by the number of pixels with a weight (`selected`), of valid ones
            (`all`), or each discriminator's own sum by the number of its own (`separate`).
    """
    if normalisation == "separate":
        return torch.stack([self_training(logits, each) for each in regions]).sum()
    return self_training(logits, regions.sum(dim=0), valid if normalisation == "all" else None)
