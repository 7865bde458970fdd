"""Losses that several methods share.

All take class ids with `IGNORE` for unknown pixels, normalize by the counted pixels of the whole batch, and
return a zero that is connected to the graph if there are none. None synchronizes with the device.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from zoo.classes import IGNORE

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(logits: Tensor, label: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the mean cross entropy over the pixels that are not `IGNORE`.

    Args:
        logits: (B, K, H, W) float.
        label: (B, H, W) int64, 0..K-1 or `IGNORE`.
        class_weights: (K,) float, weights of the pixels of each class in the mean; None for none.
    """
    if class_weights is not None:
        loss = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none")
        return weighted_mean(loss, pixel_weights(label, class_weights, loss))
    total = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="sum")
    return total / (label != IGNORE).sum().clamp(min=1)


def pixel_weights(label: Tensor, class_weights: Tensor | None, like: Tensor) -> Tensor:
    """Return the weight of the class of each pixel, or 1; 0 where it is `IGNORE`.

    Args:
        label: (B, H, W) int64, 0..K-1 or `IGNORE`.
        class_weights: (K,) float; None for ones.
        like: tensor of the dtype that is wanted.
    """
    known = label != IGNORE
    if class_weights is None:
        return known.to(like.dtype)
    return class_weights.to(like.dtype)[label.where(known, 0)] * known


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of values; 0 if no weight is more than 0."""
    return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def ohem_cross_entropy(
    logits: Tensor, label: Tensor, threshold: float, min_kept: int, class_weights: Tensor | None = None
) -> Tensor:
    """Return the mean cross entropy over the hard pixels (OHEM, Shrivastava et al., CVPR 2016).

    A pixel is hard if the probability of its class is at most `threshold`; if there are fewer than `min_kept`
    hard pixels, the `min_kept` hardest of the batch are used.

    Args:
        logits: (B, K, H, W) float.
        label: (B, H, W) int64, 0..K-1 or `IGNORE`.
        threshold: largest probability of a hard pixel, in (0, 1].
        min_kept: smallest number of pixels to use in a batch.
        class_weights: (K,) float, weights in the mean, of no effect on which pixels are hard; None for none.
    """
    loss = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none").flatten()
    known = label.flatten() != IGNORE
    difficulty = loss.detach().where(known, -1)
    kth = difficulty.topk(min(min_kept, len(difficulty))).values[-1]
    hard = known & (difficulty >= kth.clamp(max=-math.log(threshold)))
    if class_weights is not None:
        return weighted_mean(loss, pixel_weights(label, class_weights, loss).flatten() * hard)
    return (loss * hard).sum() / hard.sum().clamp(min=1)


def labeled_loss(
    logits: Tensor,
    label: Tensor,
    threshold: float | None,
    min_kept: int,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the mean cross entropy over all pixels, or over the hard ones if a threshold is given.

    Args:
        logits: (B, K, H, W) float.
        label: (B, H, W) int64, 0..K-1 or `IGNORE`.
        threshold: largest probability of a hard pixel (`ohem_cross_entropy`); None for all pixels.
        min_kept: smallest number of hard pixels to use in a batch.
        class_weights: (K,) float, weights in the mean; None for none.
    """
    if threshold is None:
        return cross_entropy(logits, label, class_weights)
    return ohem_cross_entropy(logits, label, threshold, min_kept, class_weights)


def most_likely(logits: Tensor) -> Tensor:
    """Return the probability of the most likely class, (B, H, W).

    Args:
        logits: (B, K, H, W) float.
    """
    return logits.softmax(dim=1).amax(dim=1)


def balanced_binary_cross_entropy(logits: Tensor, correct: Tensor, counted: Tensor) -> Tensor:
    """Return the binary cross entropy in which wrong and right pixels have equal total weight (ELN, Eq. 5).

    Wrong pixels have weight #right / #wrong in the batch, right ones 1; the sum is divided by #counted.

    Args:
        logits: (B, H, W) float, positive for "right".
        correct: (B, H, W) bool, whether the prediction is right.
        counted: (B, H, W) bool, whether a pixel counts.
    """
    loss = F.binary_cross_entropy_with_logits(logits, correct.to(logits.dtype), reduction="none")
    right, wrong = correct & counted, ~correct & counted
    total = (loss * right).sum() + (loss * wrong).sum() * right.sum() / wrong.sum().clamp(min=1)
    return total / counted.sum().clamp(min=1)
