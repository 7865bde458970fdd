"""Sampling of pixels by class, rank and quantile, without loops over classes or synchronization."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence


def sample_per_class(label: Tensor, num_classes: int, count: int) -> tuple[Tensor, Tensor]:
    """Return indices of elements of each class, sampled uniformly with replacement.

    Args:
        label: (P,) int64, 0..K-1; elements with larger values (`IGNORE`) are never sampled.
        num_classes: number of classes K.
        count: number M of samples of each class.

    Returns:
        Indices, (K, M) int64, and (K,) bool, whether a class has elements; without elements, its indices are
        meaningless.
    """
    ids = torch.arange(num_classes, device=label.device)
    size = (label == ids.unsqueeze(1)).sum(dim=1)  # (K,)
    start = size.cumsum(dim=0) - size
    order = label.argsort(stable=True)  # the indices of class 0, then those of class 1, ...
    place = start.unsqueeze(1) + random_places(size, count)
    return order[place.clamp(max=len(label) - 1)], size > 0


def random_places(size: Tensor, count: int) -> Tensor:
    """Return random integers, (K, `count`) int64, row k uniform in 0..size[k]-1, or 0 where size is 0.

    Args:
        size: (K,) int64.
        count: number of samples in each row.
    """
    # in double precision u * size stays below size
    share = torch.rand(len(size), count, dtype=torch.float64, device=size.device)
    return (share * size.unsqueeze(1)).long()


def sample_members(member: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return indices of up to `count` different members of each set, sampled uniformly, in random order.

    Args:
        member: (K, P) bool, members of each set.
        count: number N of members; at most P are returned.

    Returns:
        Indices, (K, N) int64, and (K, N) bool, False where the set has no more members.
    """
    score = torch.rand(member.shape, device=member.device).where(member, -1)
    drawn = score.topk(min(count, member.shape[1]), dim=1)
    return drawn.indices, drawn.values >= 0


def pixels_at(features: Tensor, place: Tensor) -> Tensor:
    """Return the features of some pixels, (..., D).

    Args:
        features: (B, D, h, w) float.
        place: (...) int64, pixel indices in 0..B*h*w-1.
    """
    area = features.shape[-2] * features.shape[-1]
    return features.flatten(2)[place // area, :, place % area]


def class_means(features: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Return the mean feature of the pixels of each class, (K, D), zero for classes without pixels.

    Args:
        features: (B, D, h, w) float.
        label: (B, h, w) int64, 0..K-1; pixels with larger values (`IGNORE`) do not count.
        num_classes: number of classes K.
    """
    ids = torch.arange(num_classes, device=label.device).view(-1, 1, 1)
    member = (label.unsqueeze(1) == ids).to(features.dtype).flatten(2)  # (B, K, h*w)
    total = (member @ features.flatten(2).transpose(1, 2)).sum(dim=0)
    return total / member.sum(dim=(0, 2)).clamp(min=1).unsqueeze(1)


def ranks(prob: Tensor) -> Tensor:
    """Return the rank of each class by decreasing probability, (B, K, h, w) int64, 0 for the most likely.

    Args:
        prob: (B, K, h, w) float.
    """
    return prob.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def quantiles(values: Tensor, fractions: Sequence[float]) -> Tensor:
    """Return quantiles of the finite values, (F,), interpolated linearly between the two nearest values.

    `torch.nanquantile` accepts at most 2**24 values, fewer than the pixels of a large batch.

    Args:
        values: float tensor of any shape; without finite values, the result is not finite.
        fractions: F numbers in [0, 1].
    """
    ordered = values.flatten().sort().values  # infinities and NaN come last
    last = (values.isfinite().sum() - 1).clamp(min=0).double()
    place = torch.stack([last * fraction for fraction in fractions])
    below, above = ordered.take(place.floor().long()), ordered.take(place.ceil().long())
    return torch.lerp(below, above, place.frac().to(ordered.dtype))


def on_grid(value: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Return a map of classes or a mask resized to `size` by nearest neighbor.

    Args:
        value: (B, H, W) int64 below 2**24, or bool.
        size: height and width of the decoder's grid.
    """
    return F.interpolate(value.unsqueeze(1).float(), size=size).squeeze(1).to(value.dtype)
