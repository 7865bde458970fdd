"""U2PL's pixel contrastive loss with a queue of negatives for each class (section 3.3 and appendix C).

Every class present has M anchors (student), one positive, the mean of its pixels (teacher), and N negatives
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
        class_mean: whether the mean is over classes with anchors and negatives, or over all K as in Eq. (4).
        temperature: tau.
        embedding_channels: D.
        anchors_per_class: M; the paper says 50, the code and the authors' tracker 256.
        anchor_threshold: delta_p, what an anchor's class must exceed in probability.
        anchors: whether they are all `reliable` unlabeled pixels, or the alpha_t of `lowest` entropy.
        positive: mean of the `anchors`' candidates, or of the whole `class`, regardless of the threshold.
        negatives_per_class: N; the paper says 256, the code and the authors' tracker 50.
        negatives: which unlabeled pixels may be some: `unreliable`, `reliable` (the alpha_t of lowest
            entropy), or `all`.
        rank_threshold: whether `ranks` count; else a pixel may be a negative of every class but its own, or
            its likeliest one if unlabeled.
        ranks: r_l and r_h; a labeled pixel is a negative of wrong classes of rank < r_l, an unlabeled one of
            classes of rank r_l..r_h - 1; 0 is the likeliest. r_l is lowered to K - 1 where it is larger.
        memory_bank: whether negatives come from the queues, or from the current step alone.
        bank_sizes: keys in the queue of class 0 and of each other class.
        pushes: keys that enter a queue, at most, in a step and process.
    """

    loss: Literal["infonce", "bce"] = "infonce"
    class_mean: Literal["present", "all"] = "present"
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
        """Return empty queues for K classes."""
        first, other = self.bank_sizes if self.memory_bank else (self.pushes, self.pushes)
        return MemoryBank([first] + [other] * (num_classes - 1), self.embedding_channels)


class Taught(NamedTuple):
    """What is known of the pixels of a step on the decoder's grid: B_l labeled images, then B_u unlabeled."""

    embedding: Tensor
    """(B, D, h, w), the teacher's."""
    prob: Tensor
    """(B, K, h, w), the teacher's."""
    label: Tensor
    """(B, h, w) int64: labels, and pseudo-labels of those pixels that may be anchors; else `IGNORE`."""
    uncertain: Tensor
    """(B_u, h, w) bool, unlabeled pixels that may be negatives."""


class ClassContrast(nn.Module):
    """The loss and its queues."""

    def __init__(self, config: ClassContrastConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.bank = config.build_bank(num_classes)

    def forward(self, embedding: Tensor, taught: Taught) -> Tensor:
        """Return the loss, Eq. (4) or (A1), after the step's negatives went into the queues (Algorithm 1).

        Args:
            embedding: (B, D, h, w) of the student.
            taught: by the teacher and the labels.
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
        classes = count if c.class_mean == "all" else counted.sum().clamp(min=1)
        return losses.where(counted, 0).sum() / classes

    def draw_negatives(self, taught: Taught) -> tuple[Tensor, Tensor]:
        """Queue the step's negatives; return which classes have any, (K,) bool, and N of each, (K, N, D)."""
        member = self.is_negative(taught).transpose(0, 1).flatten(1)  # (K, B * h * w)
        place, drawn = sample_members(member, self.config.pushes)
        if not self.config.memory_bank:
            self.bank.clear()
        self.bank.push(pixels_at(taught.embedding, place), drawn)
        negatives, filled = self.bank.sample(self.config.negatives_per_class)
        return filled, negatives

    def is_negative(self, taught: Taught) -> Tensor:
        """Return which pixels are negatives of which classes, Eq. (13) to (15), (B, K, h, w) bool."""
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
    """Return the mean over a class's anchors of the softmax loss of the positive, Eq. (4), (K,).

    Args:
        anchors: (K, M, D) float.
        positives: (K, D) float.
        negatives: (K, N, D) float; the anchors of a class share them.
        temperature: of the cosine similarities.
    """
    positive, negative = _similarities(anchors, positives, negatives, temperature)
    return (torch.cat([positive, negative], dim=2).logsumexp(dim=2) - positive.squeeze(2)).mean(dim=1)


def binary(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Return the mean over anchors and negatives of their binary loss, Eq. (A1), (K,); arguments as above."""
    positive, negative = _similarities(anchors, positives, negatives, temperature)
    return F.softplus(negative - positive).mean(dim=(1, 2))


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {"infonce": info_nce, "bce": binary}


def _similarities(
    anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the similarities over the temperature to the positive (K, M, 1) and the negatives (K, M, N)."""
    anchors = F.normalize(anchors, dim=2) / temperature
    positive = anchors @ F.normalize(positives, dim=1).unsqueeze(2)
    return positive, anchors @ F.normalize(negatives, dim=2).transpose(1, 2)
