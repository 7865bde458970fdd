"""Masks and confidence from logits, shared by PyTorch and exported graphs."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.predictors.outputs import mask_dtype


def choose(logits: Tensor) -> Tensor:
    """Return the class of the largest logit, (B, H, W) uint8, or int32 above 255 classes.

    Args:
        logits: (B, K, H, W) float.
    """
    dtype: torch.dtype = getattr(torch, mask_dtype(logits.shape[1]))
    return logits.argmax(dim=1).to(dtype)


def confidence(logits: Tensor) -> Tensor:
    """Return the probability of the most probable class, (B, H, W) uint8: 0..1 as 0..255, rounded.

    The largest softmax probability is one over the sum of the exponentials relative to the largest, which
    needs no (B, K, H, W) tensor of probabilities. A class that a gate removed adds nothing to the sum.

    Args:
        logits: (B, K, H, W) float.
    """
    logits = logits.float()
    total = (logits - logits.amax(dim=1, keepdim=True)).exp().sum(dim=1)  # (B, H, W), 1..K
    return (255 / total).round().to(torch.uint8)  # the cast comes last, or TensorRT refuses it
