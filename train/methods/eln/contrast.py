"""Pixel contrastive loss of ELN (Kwon & Kwak, CVPR 2022, Eq. 10), in two forms that can be trained.

Every pixel of a batch (or of a window of it) is paired with every other: N x N similarities. They are
computed in chunks of rows that are recomputed in the backward pass, so that memory grows with N, not with its
square; sums over the pixels of a class are products with one-hot labels, without loops over classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 1024
"""Rows of the similarity matrix that exist at a time."""
TINY = 1e-8


def random_windows(features: Tensor, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Return the rows and columns of random windows, sampled on the features' device.

    Args:
        features: (B, D, h, w), of which only size and device are used.
        count: number of windows.
        size: side of a window, clamped to the features' height and width.

    Returns:
        Rows (count, s, 1) and columns (count, 1, s'), int64, for indexing a map.
    """
    offsets = []
    for extent in features.shape[-2:]:
        side = min(size, extent)
        start = torch.randint(extent - side + 1, (count, 1), device=features.device)
        offsets.append(start + torch.arange(side, device=features.device))
    return offsets[0].unsqueeze(2), offsets[1].unsqueeze(1)


def mean_over_windows(
    contrast: Callable[[Tensor, Tensor, Tensor], Tensor],
    teacher: Tensor,
    student: Tensor,
    label: Tensor,
    windows: tuple[Tensor, Tensor],
) -> Tensor:
    """Return the mean of `contrast` over windows at the same positions in all images of the batch.

    Args:
        contrast: one of `FORMS`, a function of teacher pixels (N, D), student pixels (N, D) and labels (N,).
        teacher: (B, D, h, w) float, embedding of the teacher.
        student: (B, D, h, w) float, embedding of the student.
        label: (B, h, w) int64, pseudo-labels.
        windows: windows from `random_windows`.
    """
    rows, columns = windows
    teachers = teacher[:, :, rows, columns].permute(2, 0, 3, 4, 1).flatten(1, 3)  # (count, N, D)
    students = student[:, :, rows, columns].permute(2, 0, 3, 4, 1).flatten(1, 3)
    labels = label[:, rows, columns].transpose(0, 1).flatten(1)  # (count, N)
    losses = [contrast(t, s, c) for t, s, c in zip(teachers, students, labels, strict=True)]
    return torch.stack(losses).mean()


def pair_sums(
    teacher: Tensor,
    student: Tensor,
    label: Tensor,
    num_classes: int,
    temperature: float = 0.5,
    chunk: int = CHUNK,
) -> Tensor:
    """Return the form of the authors' code: one ratio of pair sums for each class present.

    With S_ij = exp(cos(teacher_i, student_j) / temperature) summed over the pixels of two classes into
    G (K x K): mean over the classes c present of (log(G_cc + sum of the rest of row c) - log G_cc) / n_c.

    Args:
        teacher: (N, D) float, anchors.
        student: (N, D) float, keys.
        label: (N,) int64, `IGNORE` for pixels that are left out.
        num_classes: number of classes K.
        temperature: temperature of the similarities.
        chunk: number of rows computed at a time.
    """
    anchors, keys = _prepare(teacher, student, temperature)
    members = _members(label, num_classes, anchors)
    rows = _by_rows(lambda a, h: h.T @ (torch.exp(a @ keys.T) @ members), anchors, members, chunk)
    sums = torch.stack(rows).sum(dim=0)  # (K, K)
    positive = sums.diagonal()
    negative = (sums.sum(dim=1) - positive).clamp(min=TINY)
    positive = positive.clamp(min=TINY)
    count = members.sum(dim=0)
    ratio = (torch.log(positive + negative) - torch.log(positive)) / count.clamp(min=1)
    present = count > 0
    return (ratio * present).sum() / present.sum().clamp(min=1)


def mean_positive(
    teacher: Tensor,
    student: Tensor,
    label: Tensor,
    num_classes: int,
    temperature: float = 0.5,
    chunk: int = CHUNK,
) -> Tensor:
    """Return Eq. (10) with the sum over the positives of an anchor replaced by their mean.

    Anchors are student pixels, keys are teacher pixels. The paper's sum grows with the number of pixels of a
    class.

    Args:
        teacher: (N, D) float, keys.
        student: (N, D) float, anchors.
        label: (N,) int64, `IGNORE` for pixels that are left out.
        num_classes: number of classes K.
        temperature: temperature of the similarities.
        chunk: number of rows computed at a time.
    """
    anchors, keys = _prepare(student, teacher, temperature)
    members = _members(label, num_classes, anchors)
    count = members.sum(dim=0)  # (K,)

    def row_sum(a: Tensor, h: Tensor) -> Tensor:
        similarity = torch.exp(a @ keys.T)  # (n, N)
        negative = ((similarity @ members) * (1 - h)).sum(dim=1, keepdim=True)
        # sums over the keys of each class of log((d_ij + sum of negatives) / d_ij)
        pairs = torch.log(similarity + negative) @ members - a @ (keys.T @ members)  # (n, K)
        return ((pairs * h).sum(dim=1) / (h @ count).clamp(min=1)).sum()

    total = torch.stack(_by_rows(row_sum, anchors, members, chunk)).sum()
    return total / members.sum().clamp(min=1)


FORMS: dict[str, Callable[..., Tensor]] = {"official": pair_sums, "mean_pos": mean_positive}


def _prepare(anchors: Tensor, keys: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return anchors of length 1 / temperature and keys of length 1, at least in single precision."""
    dtype = torch.promote_types(anchors.dtype, torch.float32)
    return F.normalize(anchors.to(dtype), dim=1) / temperature, F.normalize(keys.to(dtype), dim=1)


def _members(label: Tensor, num_classes: int, like: Tensor) -> Tensor:
    """Return the one-hot labels (N, K) in the dtype of `like`; the row of an `IGNORE` pixel is zero."""
    return (label.unsqueeze(1) == torch.arange(num_classes, device=label.device)).to(like.dtype)


def _by_rows(
    function: Callable[[Tensor, Tensor], Tensor], anchors: Tensor, members: Tensor, chunk: int
) -> list[Tensor]:
    """Return `function` of each chunk of rows, with intermediate results recomputed in the backward pass."""
    pairs = zip(anchors.split(chunk), members.split(chunk), strict=True)
    with torch.autocast(
        anchors.device.type, enabled=False
    ):  # sums of thousands of pairs need single precision
        return [checkpoint(function, a, h, use_reentrant=False, preserve_rng_state=False) for a, h in pairs]
