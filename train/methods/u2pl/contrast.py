"""Pixel contrastive loss of U2PL, with a queue of negatives for each class (section 3.3 and appendix C).

Each class present has M anchors (student), one positive, the mean of its pixels (teacher), and N negatives
from its queue (teacher). All classes are computed at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.classes import IGNORE
from zoo.frozen import Frozen
from zoo.train.methods.u2pl.memory_bank import MemoryBank
from zoo.train.methods.u2pl.sampling import class_means, pixels_at, ranks, sample_members, sample_per_class

if TYPE_CHECKING:
    from collections.abc import Callable


class ClassContrastConfig(Frozen):
    """Settings of the loss.

    Args:
        loss: `infonce`, Eq. (4), or `bce`, Eq. (A1).
        temperature: temperature tau of the similarities.
        embedding_channels: channels D of the embedding.
        anchors_per_class: number M of anchors; 50 in the paper, 256 in the code and the authors' tracker.
        anchor_threshold: delta_p, the smallest probability of an anchor's class.
        anchors: whether all `reliable` unlabeled pixels are candidates, or the alpha_t of `lowest` entropy.
        positive: mean of the candidates of `anchors`, or of the whole `class`, regardless of the threshold.
        negatives_per_class: number N of negatives; 256 in the paper, 50 in the code and the authors' tracker.
        negatives: unlabeled pixels that may be negatives: `unreliable`, `reliable` (the alpha_t of lowest
            entropy), or `all`.
        rank_threshold: whether to use `ranks`; otherwise, a labeled pixel may be a negative of all other
            classes, and an unlabeled pixel of all classes except the most likely.
        ranks: r_l and r_h; a labeled pixel is a negative of wrong classes of rank < r_l, an unlabeled pixel
            of classes of rank r_l..r_h - 1, where 0 is the most likely. r_l is at most K - 1.
        memory_bank: whether negatives come from the queues, or only from the current step.
        bank_sizes: capacity of the queue of class 0, and of each other class.
        pushes: largest number of keys that a process adds to a queue in a step.
    """

    loss: Literal["infonce", "bce"] = "infonce"
    temperature: float = Field(0.5, gt=0)
    embedding_channels: int = Field(256, ge=1)
    anchors_per_class: int = Field(256, ge=1)
    anchor_threshold: float = Field(0.3, ge=0, lt=1)
    anchors: Literal["reliable", "lowest"] = "reliable"
    positive: Literal["anchors", "class"] = "anchors"
    negatives_per_class: int = Field(50, ge=1)
    negatives: Literal["unreliable", "reliable", "all"] = "unreliable"
    rank_threshold: bool = True
    ranks: tuple[int, int] = (3, 20)
    memory_bank: bool = True
    bank_sizes: tuple[int, int] = (50_000, 30_000)
    pushes: int = Field(512, ge=1)

    @field_validator("ranks")
    @classmethod
    def _check_ranks(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] < value[1]:
            raise ValueError("expected two rising ranks from 1 on, such as [3, 20]")
        return value

    @field_validator("bank_sizes")
    @classmethod
    def _check_sizes(cls, value: tuple[int, int]) -> tuple[int, int]:
        if min(value) < 1:
            raise ValueError("expected two numbers from 1 on, such as [50000, 30000]")
        return value

    def build_bank(self, num_classes: int) -> MemoryBank:
        """Return empty queues for all classes."""
        first, other = self.bank_sizes if self.memory_bank else (self.pushes, self.pushes)
        return MemoryBank([first] + [other] * (num_classes - 1), self.embedding_channels)


class TeacherTargets(NamedTuple):
    """Teacher outputs and labels of a step on the decoder's grid: B_l labeled images, then B_u unlabeled."""

    embedding: Tensor
    """(B, D, h, w) float, embedding of the teacher."""
    prob: Tensor
    """(B, K, h, w) float, probabilities of the teacher."""
    label: Tensor
    """(B, h, w) int64, labels, and pseudo-labels of pixels that may be anchors; otherwise `IGNORE`."""
    uncertain: Tensor
    """(B_u, h, w) bool, whether an unlabeled pixel may be a negative."""


class ClassContrast(nn.Module):
    """The loss and its queues."""

    def __init__(self, config: ClassContrastConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.bank = config.build_bank(num_classes)

    def forward(self, embedding: Tensor, taught: TeacherTargets) -> Tensor:
        """Return the loss, Eq. (4) or (A1), after adding the step's negatives to the queues (Algorithm 1).

        Args:
            embedding: (B, D, h, w) float, embedding of the student.
            taught: teacher outputs and labels.
        """
        c, count = self.config, self.num_classes
        own = taught.prob.gather(1, taught.label.clamp(max=count - 1).unsqueeze(1)).squeeze(1)
        anchor = taught.label.where(own > c.anchor_threshold, IGNORE)  # Eq. (9) to (11)
        place, has_anchor = sample_per_class(anchor.flatten(), count, c.anchors_per_class)
        has_negative, negatives = self.draw_negatives(taught)
        of_positive = anchor if c.positive == "anchors" else taught.label
        with torch.autocast(embedding.device.type, enabled=False):
            positives = class_means(taught.embedding.float(), of_positive, count)  # Eq. (12)
            losses = LOSSES[c.loss](
                pixels_at(embedding, place).float(), positives, negatives.float(), c.temperature
            )
        counted = has_anchor & has_negative
        return losses.where(counted, 0).sum() / counted.sum().clamp(min=1)

    def draw_negatives(self, taught: TeacherTargets) -> tuple[Tensor, Tensor]:
        """Queue the step's negatives; return whether a class has any, (K,) bool, and N samples, (K, N, D)."""
        member = self.is_negative(taught).transpose(0, 1).flatten(1)  # (K, B * h * w)
        place, drawn = sample_members(member, self.config.pushes)
        if not self.config.memory_bank:
            self.bank.clear()
        self.bank.push(pixels_at(taught.embedding, place), drawn)
        negatives, filled = self.bank.sample(self.config.negatives_per_class)
        return filled, negatives

    def is_negative(self, taught: TeacherTargets) -> Tensor:
        """Return whether each pixel is a negative of each class, Eq. (13) to (15), (B, K, h, w) bool."""
        rank = ranks(taught.prob)
        rank_l, rank_u = rank.tensor_split([len(rank) - len(taught.uncertain)])
        label = taught.label[: len(rank_l)].unsqueeze(1)
        ids = torch.arange(self.num_classes, device=label.device).view(1, -1, 1, 1)
        labeled = (label != IGNORE) & (label != ids)
        if not self.config.rank_threshold:
            return torch.cat([labeled, taught.uncertain.unsqueeze(1) & (rank_u > 0)]).expand_as(rank)
        low, high = self.config.ranks
        low = min(low, self.num_classes - 1)
        unlabeled = taught.uncertain.unsqueeze(1) & (rank_u >= low) & (rank_u < high)
        return torch.cat([labeled & (rank_l < low), unlabeled])


def info_nce(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Return the InfoNCE loss of each class, averaged over its anchors, Eq. (4), (K,).

    Args:
        anchors: (K, M, D) float.
        positives: (K, D) float.
        negatives: (K, N, D) float, shared by the anchors of a class.
        temperature: temperature of the cosine similarities.
    """
    positive, negative = _similarities(anchors, positives, negatives, temperature)
    return (torch.cat([positive, negative], dim=2).logsumexp(dim=2) - positive.squeeze(2)).mean(dim=1)


def binary(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Return the binary loss of each class, averaged over anchors and negatives, Eq. (A1), (K,).

    Args:
        anchors: (K, M, D) float.
        positives: (K, D) float.
        negatives: (K, N, D) float, shared by the anchors of a class.
        temperature: temperature of the cosine similarities.
    """
    positive, negative = _similarities(anchors, positives, negatives, temperature)
    return F.softplus(negative - positive).mean(dim=(1, 2))


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {"infonce": info_nce, "bce": binary}


def _similarities(
    anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return similarities, divided by the temperature, to the positive (K, M, 1) and negatives (K, M, N)."""
    anchors = F.normalize(anchors, dim=2) / temperature
    positive = anchors @ F.normalize(positives, dim=1).unsqueeze(2)
    return positive, anchors @ F.normalize(negatives, dim=2).transpose(1, 2)
