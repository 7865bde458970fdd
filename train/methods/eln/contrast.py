"""Pixel contrastive loss of ELN (Kwon & Kwak, CVPR 2022, Eq. 10), in two forms that can be trained.

Every pixel of a batch (or of a window of it) is paired with every other: N x N similarities. They are
computed in chunks of rows, so that memory grows with N, not with its square. On a GPU, chunks are recomputed
in the backward pass, and sums over the pixels of a class are products with one-hot labels: loops over classes
would wait for the GPU. On a CPU, pixels are sorted by class, and the gradient of the student is computed
beside the value, so that no similarity is computed twice.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from zoo.classes import IGNORE

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 1024
"""Rows of the similarity matrix that exist at a time."""
BLOCK = 2**20
"""Similarities that exist at a time on a CPU, so that they stay in its cache."""
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
        chunk: number of rows computed at a time on a GPU; on a CPU `BLOCK` bounds them.
    """
    anchors, keys = _prepare(teacher, student, temperature)
    if _is_fast(teacher, student):
        return _with_gradient(keys, partial(_pair_sums_by_class, anchors, keys, label))
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
        chunk: number of rows computed at a time on a GPU; on a CPU `BLOCK` bounds them.
    """
    anchors, keys = _prepare(student, teacher, temperature)
    if _is_fast(teacher, student):
        return _with_gradient(anchors, partial(_mean_positive_by_class, anchors, keys, label))
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


def _is_fast(teacher: Tensor, student: Tensor) -> bool:
    """Return whether the sums by class apply, which have no gradient of the teacher."""
    return student.device.type == "cpu" and not teacher.requires_grad


def _with_gradient(tensor: Tensor, compute: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
    """Return the value that `compute` returns beside its gradient with respect to a tensor."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        value, gradient = compute()
    return value + ((tensor - tensor.detach()) * gradient).sum()


def _by_class(label: Tensor) -> tuple[Tensor, list[slice]]:
    """Return the pixels that take part sorted by class, and the slice of each class that is present."""
    order = label.argsort(stable=True)
    order = order[label[order] != IGNORE]
    ends = label[order].unique_consecutive(return_counts=True)[1].cumsum(0).tolist()
    return order, [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]


def _chunks(rows: slice, columns: int) -> list[slice]:
    """Return the parts of a class that have `BLOCK` similarities with all pixels."""
    step = max(BLOCK // columns, 1)
    return [slice(begin, min(begin + step, rows.stop)) for begin in range(rows.start, rows.stop, step)]


def _pair_sums_by_class(anchors: Tensor, keys: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return `pair_sums` and its gradient with respect to the keys.

    For anchors of class c, the gradient of key j is that of G_ck times the sum of S_ij anchor_i, which needs
    G_c alone: one pass over the similarities of a class gives both.
    """
    order, classes = _by_class(label)
    anchors, sorted_keys = F.pad(anchors[order], (0, 1), value=1.0), keys[order]
    value, moved = keys.new_zeros(()), torch.zeros_like(sorted_keys)
    for own in classes:
        sums = torch.zeros_like(anchors)  # (N, D + 1): of S_ij anchor_i and of S_ij, for each key
        for rows in _chunks(own, len(order)):
            sums += torch.exp(anchors[rows, :-1] @ sorted_keys.T).T @ anchors[rows]
        mass, count = sums[:, -1], own.stop - own.start
        positive = mass[own].sum().clamp(min=TINY)
        negative = (mass[: own.start].sum() + mass[own.stop :].sum()).clamp(min=TINY)
        value += (torch.log(positive + negative) - torch.log(positive)) / count
        moved += sums[:, :-1] / ((positive + negative) * count)
        moved[own] -= sums[own, :-1] / (positive * count)
    scale = max(len(classes), 1)
    return value / scale, torch.zeros_like(keys).index_copy(0, order, moved / scale)


def _mean_positive_by_class(anchors: Tensor, keys: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return `mean_positive` and its gradient with respect to the anchors; each needs its row alone."""
    order, classes = _by_class(label)
    sorted_anchors, keys = anchors[order], F.pad(keys[order], (0, 1), value=1.0)
    value, moved = anchors.new_zeros(()), torch.zeros_like(sorted_anchors)
    for own in classes:
        positives, count = keys[own, :-1], own.stop - own.start
        others = keys[: own.start], keys[own.stop :]
        for rows in _chunks(own, len(order)):
            a = sorted_anchors[rows]
            # (n, D + 1): sums over the negatives of d_ik key_k and of d_ik
            apart = torch.stack([torch.exp(a @ each[:, :-1].T) @ each for each in others]).sum(dim=0)
            cosine = a @ positives.T
            close = torch.exp(cosine)
            inverse = (close + apart[:, -1:]).reciprocal()
            value -= (torch.log(inverse) + cosine).sum() / count
            pulled = (close * inverse) @ positives - positives.sum(dim=0)
            moved[rows] = (pulled + inverse.sum(dim=1, keepdim=True) * apart[:, :-1]) / count
    scale = max(len(order), 1)
    return value / scale, torch.zeros_like(anchors).index_copy(0, order, moved / scale)
