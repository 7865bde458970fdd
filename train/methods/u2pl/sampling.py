"""Choosing pixels by class, rank and quantile: no loop over classes, no wait for the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence


def sample_per_class(label: Tensor, num_classes: int, count: int) -> tuple[Tensor, Tensor]:
    """Return places of `count` elements of each class, drawn evenly and with replacement.

    Args:
        label: (P,) int64, 0..K-1; elements with any larger value (`IGNORE`) are never drawn.
        num_classes: K.
        count: M.

    Returns:
        (K, M) int64 places, and (K,) bool, whether the class has an element; the places of a class without
        one mean nothing.
    """
    ids = torch.arange(num_classes, device=label.device)
    size = (label == ids.unsqueeze(1)).sum(dim=1)  # (K,)
    start = size.cumsum(dim=0) - size
    order = label.argsort(stable=True)  # the places of class 0, then those of class 1, ...
    place = start.unsqueeze(1) + random_places(size, count)
    return order[place.clamp(max=len(label) - 1)], size > 0


def random_places(size: Tensor, count: int) -> Tensor:
    """Return (K, `count`) int64, each row drawn evenly from 0..size-1 with replacement; 0 where size is 0.

    Args:
        size: (K,) int64.
        count: of draws.
    """
    # in double precision u * size stays below size
    share = torch.rand(len(size), count, dtype=torch.float64, device=size.device)
    return (share * size.unsqueeze(1)).long()


def sample_members(member: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return places of up to `count` different members of each set, drawn evenly, in random order.

    Args:
        member: (K, P) bool.
        count: N; no more than P are returned.

    Returns:
        (K, N) int64 places, and (K, N) bool, False where the set had no member left.
    """
    score = torch.rand(member.shape, device=member.device).where(member, -1)
    drawn = score.topk(min(count, member.shape[1]), dim=1)
    return drawn.indices, drawn.values >= 0


def pixels_at(features: Tensor, place: Tensor) -> Tensor:
    """Return the features of some pixels, (..., D).

    Args:
        features: (B, D, h, w).
        place: (...) int64, in 0..B*h*w-1.
    """
    area = features.shape[-2] * features.shape[-1]
    return features.flatten(2)[place // area, :, place % area]


def class_means(features: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Return the mean feature of the pixels of each class, (K, D), zero for a class without one.

    Args:
        features: (B, D, h, w) float.
        label: (B, h, w) int64, 0..K-1; pixels with any larger value (`IGNORE`) do not count.
        num_classes: K.
    """
    ids = torch.arange(num_classes, device=label.device).view(-1, 1, 1)
    member = (label.unsqueeze(1) == ids).to(features.dtype).flatten(2)  # (B, K, h*w)
    total = (member @ features.flatten(2).transpose(1, 2)).sum(dim=0)
    return total / member.sum(dim=(0, 2)).clamp(min=1).unsqueeze(1)


def ranks(prob: Tensor) -> Tensor:
    """Return each class's place in the order of falling probability, int64, 0 for the most likely.

    Args:
        prob: (B, K, h, w) float.
    """
    return prob.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def quantiles(values: Tensor, fractions: Sequence[float]) -> Tensor:
    """Return quantiles of the finite values, (F,), interpolated linearly between the two nearest.

    `torch.nanquantile` takes at most 2**24 values, fewer than a large batch of images has pixels.

    Args:
        values: of any shape, float; if none is finite the result is not, either.
        fractions: F numbers in [0, 1].
    """
    ordered = values.flatten().sort().values  # infinities and NaN come last
    last = (values.isfinite().sum() - 1).clamp(min=0).double()
    place = torch.stack([last * fraction for fraction in fractions])
    below, above = ordered.take(place.floor().long()), ordered.take(place.ceil().long())
    return torch.lerp(below, above, place.frac().to(ordered.dtype))


def on_grid(value: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Return a map of classes or a mask at (height, width) `size`, nearest.

    Args:
        value: (B, H, W) int64 below 2**24, or bool.
        size: of the decoder's grid.
    """
    return F.interpolate(value.unsqueeze(1).float(), size=size).squeeze(1).to(value.dtype)
