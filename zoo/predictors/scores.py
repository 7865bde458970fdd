"""Scores of pixels and their calibration, shared by evaluation, PyTorch and exported graphs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from zoo.bundle.reliability import LOCALIZER

if TYPE_CHECKING:
    from zoo.bundle.reliability import Calibration

LEVELS = 1024
"""Entries of the table by which a graph interpolates between knots."""


def max_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the largest softmax probability, (B, H, W) float.

    Args:
        logits: (B, K, H, W) float.
        temperature: divisor of the logits.
    """
    logits = logits.float()
    return 1 / ((logits - logits.amax(dim=1, keepdim=True)) / temperature).exp().sum(dim=1)


def certainty(logits: Tensor) -> Tensor:
    """Return one minus the entropy over its maximum log K, (B, H, W) float in 0..1.

    Args:
        logits: (B, K, H, W) float; a class that a gate removed counts as probability 0.
    """
    log_prob = logits.float().log_softmax(dim=1)
    entropy = -(log_prob.exp() * log_prob).sum(dim=1)
    return (1 - entropy / math.log(logits.shape[1])).clamp(0, 1)


def raw_score(logits: Tensor, calibration: Calibration) -> Tensor:
    """Return the score of a calibration before its knots, (B, H, W) float.

    Args:
        logits: (B, K, H, W) float.
        calibration: calibration of a score that is computed from logits.
    """
    if calibration.score == "entropy":
        return certainty(logits)
    return max_softmax(logits, calibration.temperature)


def calibrated(score: Tensor, calibration: Calibration) -> Tensor:
    """Return the reliability of raw scores, of the same shape.

    The interpolation is a look-up in a table of `LEVELS` entries, one Gather in an exported graph.

    Args:
        score: float in 0..1.
        calibration: calibration of this score.
    """
    if not calibration.knots:
        return score
    x, y = np.array(calibration.knots).T
    values = np.interp(np.linspace(0, 1, LEVELS), x, y)
    table = torch.tensor(values, dtype=torch.float32, device=score.device)
    level = (score * (LEVELS - 1)).round().long()
    return functional.embedding(level, table[:, None]).squeeze(-1)


def own_score(judged: Tensor, calibration: Calibration) -> Tensor:
    """Return the score of a model that judges its predictions, 0 to 1, of the shape of `judged`.

    Args:
        judged: float, from `Judging.judge`: probabilities, or logits of ELN's localizer.
        calibration: calibration of this score, whose knots are not applied.
    """
    if calibration.score != LOCALIZER:
        return judged.float()
    return (judged.float() + calibration.shift).sigmoid()


def reliability(logits: Tensor, calibration: Calibration) -> Tensor:
    """Return the reliability of each pixel, (B, H, W) uint8: 0..1 as 0..255, rounded.

    Args:
        logits: (B, K, H, W) float.
        calibration: calibration of a score that is computed from logits.
    """
    return as_uint8(calibrated(raw_score(logits, calibration), calibration))


def own_reliability(judged: Tensor, calibration: Calibration) -> Tensor:
    """Return the reliability of each pixel, (B, H, W) uint8: 0..1 as 0..255, rounded.

    Args:
        judged: (B, H, W) float, from `Judging.judge`.
        calibration: calibration of its score.
    """
    return as_uint8(calibrated(own_score(judged, calibration), calibration))


def as_uint8(value: Tensor) -> Tensor:
    """Return probabilities as uint8: 0..1 as 0..255, rounded."""
    return (255 * value).round().to(torch.uint8)  # the cast comes last, or TensorRT refuses it
