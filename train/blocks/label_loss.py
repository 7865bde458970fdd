"""The loss on labeled pixels, which the recipe chooses for all methods alike: terms, and weights of classes.

Terms: `cross_entropy` (over the hard pixels where the method has OHEM), `dice` (Sudre et al., DLMIA 2017),
`focal` (Lin et al., ICCV 2017) and `lovasz` (Lovasz-Softmax, Berman et al., CVPR 2018). All count the whole
batch at once. With weights of classes, the first and `focal` are weighted means over pixels, and `dice` and
`lovasz` weighted means over the classes that the labels of the batch have; the scale of the weights is of no
effect. `IGNORE`, which also marks padding, counts nowhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.classes import IGNORE
from zoo.train.blocks.losses import cross_entropy, labeled_loss, pixel_weights, weighted_mean

if TYPE_CHECKING:
    from collections.abc import Callable

CROSS_ENTROPY = "cross_entropy"


class LabelLossConfig(NamedTuple):
    """Settings of the loss on labeled pixels; the default is the method's own cross entropy.

    Args:
        terms: names of terms and their factors, from `parsed_terms`.
        focal_gamma: exponent of `focal`.
        weighted: whether classes have weights.
    """

    terms: tuple[tuple[str, float], ...] = ((CROSS_ENTROPY, 1.0),)
    focal_gamma: float = 2.0
    weighted: bool = False

    @property
    def is_plain(self) -> bool:
        """Return whether it is the method's own cross entropy, without weights."""
        return self.terms == ((CROSS_ENTROPY, 1.0),) and not self.weighted


PLAIN = LabelLossConfig()


def parsed_terms(text: str) -> tuple[tuple[str, float], ...]:
    """Return the names of terms and their factors.

    Example:
        >>> parsed_terms("cross_entropy + 0.5 * dice")
        (('cross_entropy', 1.0), ('dice', 0.5))

    Raises:
        ValueError: an unknown or repeated term, or a factor that is not a positive number.
    """
    terms: dict[str, float] = {}
    for part in text.split("+"):
        factor, star, name = (each.strip() for each in part.rpartition("*"))
        if name not in LOSSES:
            raise ValueError(
                f"expected {', '.join(LOSSES)} or a sum such as cross_entropy + 0.5 * dice, got the term "
                f"{name!r}"
            )
        if name in terms:
            raise ValueError(f"expected each term once, got {name} again")
        try:
            terms[name] = float(factor) if star else 1.0
        except ValueError:
            terms[name] = math.nan
        if not 0 < terms[name] < math.inf:
            raise ValueError(f"expected a positive number before the * of {name}, got {factor!r}")
    return tuple(terms.items())


class LabelLoss(nn.Module):
    """Loss on labeled pixels. The weights of classes are a buffer, which a checkpoint of the run keeps.

    Args:
        config: terms; by default the plain cross entropy.
        num_classes: number of classes K, which weights need.
    """

    class_weights: Tensor | None

    def __init__(self, config: LabelLossConfig = PLAIN, num_classes: int = 0) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("class_weights", torch.ones(num_classes) if config.weighted else None)

    def forward(
        self, logits: Tensor, label: Tensor, ohem_threshold: float | None = None, ohem_min_kept: int = 1
    ) -> Tensor:
        """Return the weighted sum of the terms.

        Args:
            logits: (B, K, H, W) float.
            label: (B, H, W) int64, 0..K-1 or `IGNORE`.
            ohem_threshold: largest probability of a hard pixel of `cross_entropy`; None for all pixels.
            ohem_min_kept: smallest number of hard pixels to use in a batch.
        """
        weights = self.class_weights
        total: Tensor | None = None
        for name, factor in self.config.terms:
            if name == CROSS_ENTROPY:
                term = labeled_loss(logits, label, ohem_threshold, ohem_min_kept, weights)
            elif name == "focal":
                term = focal(logits, label, weights, self.config.focal_gamma)
            else:
                term = LOSSES[name](logits, label, weights)
            term = term if factor == 1 else factor * term
            total = term if total is None else total + term
        assert total is not None
        return total


def focal(logits: Tensor, label: Tensor, class_weights: Tensor | None, gamma: float = 2.0) -> Tensor:
    """Return the mean of -(1 - p)^gamma log p over the counted pixels, p the probability of the label.

    Args:
        logits: (B, K, H, W) float.
        label: (B, H, W) int64, 0..K-1 or `IGNORE`.
        class_weights: (K,) float, alpha of the paper; None for none.
        gamma: exponent; 0 gives the cross entropy.
    """
    loss = F.cross_entropy(_exact(logits), label, ignore_index=IGNORE, reduction="none")
    # a power below 1 has no gradient at zero
    wrong = (-torch.expm1(-loss)).clamp(min=torch.finfo(loss.dtype).eps)
    return weighted_mean(wrong**gamma * loss, pixel_weights(label, class_weights, loss))


def dice(logits: Tensor, label: Tensor, class_weights: Tensor | None) -> Tensor:
    """Return the mean of 1 - 2 sum(p g) / sum(p + g) over the classes of the labels, g the label as 0 or 1.

    Args:
        logits: (B, K, H, W) float.
        label: (B, H, W) int64, 0..K-1 or `IGNORE`.
        class_weights: (K,) float; None for none.
    """
    prob, truth = _exact(logits).softmax(dim=1), _truth(label, logits)
    pixels = (0, 2, 3)
    common = (prob * truth).sum(pixels)
    both = (prob * (label != IGNORE).unsqueeze(1)).sum(pixels) + truth.sum(pixels)
    return _class_mean(1 - 2 * common / both.clamp(min=torch.finfo(prob.dtype).tiny), truth, class_weights)


def lovasz(logits: Tensor, label: Tensor, class_weights: Tensor | None) -> Tensor:
    """Return the mean of the Lovasz extension of 1 - IoU over the classes of the labels.

    Args:
        logits: (B, K, H, W) float.
        label: (B, H, W) int64, 0..K-1 or `IGNORE`.
        class_weights: (K,) float; None for none.
    """
    prob, truth = _exact(logits).softmax(dim=1), _truth(label, logits)
    known = label != IGNORE
    losses = [_extension(*each, known) for each in zip(prob.unbind(1), truth.unbind(1), strict=True)]
    return _class_mean(torch.stack(losses), truth, class_weights)


def _extension(prob: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Return the Lovasz extension of 1 - IoU of a class, Eq. (8) and (9) and Algorithm 1 of the paper.

    Args:
        prob: (B, H, W) float, probability of the class.
        truth: (B, H, W) bool, whether it is the label.
        known: (B, H, W) bool, whether a pixel counts.
    """
    errors, order = (truth.to(prob.dtype) - prob).abs().where(known, -1).flatten().sort(descending=True)
    truth, known = (each.flatten()[order].to(prob.dtype) for each in (truth, known))  # what counts is first
    pixels = truth.sum()
    common, either = pixels - truth.cumsum(0), pixels + (known - truth).cumsum(0)
    loss = 1 - common / either.clamp(min=1)
    steps = loss.diff(prepend=loss.new_zeros(1))
    return (errors * steps * known).sum()


def _exact(logits: Tensor) -> Tensor:
    """Return logits in 32 bits or more: half precision cannot sum the pixels of a batch."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _truth(label: Tensor, logits: Tensor) -> Tensor:
    """Return whether each class is the label, (B, K, H, W) bool."""
    classes = torch.arange(logits.shape[1], device=label.device)
    return label.unsqueeze(1) == classes[:, None, None]


def _class_mean(losses: Tensor, truth: Tensor, class_weights: Tensor | None) -> Tensor:
    """Return the weighted mean of the losses of classes, (K,), over those that the labels have."""
    present = truth.any(dim=3).any(dim=2).any(dim=0).to(losses.dtype)
    return weighted_mean(losses, present if class_weights is None else present * class_weights)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    CROSS_ENTROPY: cross_entropy,
    "dice": dice,
    "focal": focal,
    "lovasz": lovasz,
}
"""Terms by name, in the order in which they are listed."""
