"""Memory bank with a queue of keys for each class, on the device and without synchronization (U2PL, 3.3).

The queues of all classes are stored consecutively in one tensor of fixed size, so that the bank is saved and
moved with the method. At 21 classes, 50,000 + 20 x 30,000 keys of 256 half-precision numbers take 333 MB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.train.blocks.gather import gathered
from zoo.train.methods.u2pl.sampling import random_places

if TYPE_CHECKING:
    from collections.abc import Sequence


class MemoryBank(nn.Module):
    """First-in-first-out queues of keys of length 1.

    All processes of a run hold the same bank, provided that all push at the same steps.

    Args:
        capacities: capacity of the queue of each of the K classes.
        channels: channels D of a key.
    """

    keys: Tensor
    """(sum of capacities + 1, D) half; the last row receives discarded keys."""
    count: Tensor
    """(K,) int64, number of keys in each queue."""
    pointer: Tensor
    """(K,) int64, position of the next key in each queue."""
    capacity: Tensor
    """(K,) int64, capacity of each queue."""
    start: Tensor
    """(K,) int64, first row of each queue in `keys`."""

    def __init__(self, capacities: Sequence[int], channels: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(sum(capacities) + 1, channels, dtype=torch.half))
        for name in ("count", "pointer"):
            self.register_buffer(name, torch.zeros(len(capacities), dtype=torch.long))
        capacity = torch.tensor(capacities)
        self.register_buffer("capacity", capacity, persistent=False)
        self.register_buffer("start", capacity.cumsum(dim=0) - capacity, persistent=False)

    @torch.no_grad()
    def push(self, features: Tensor, valid: Tensor) -> None:
        """Add features of all processes to the queues, replacing the oldest keys.

        Features that are zero or not finite are left out, so that one broken step does not corrupt the bank.

        Args:
            features: (K, N, D) float of any length, oldest first.
            valid: (K, N) bool, False where there is no feature.
        """
        keys = F.normalize(features.float(), dim=2).where(valid.unsqueeze(2), 0).half()
        keys = gathered(keys).transpose(0, 1).flatten(1, 2)  # (K, processes * N, D)
        length = keys.float().norm(dim=2)
        valid = (length > 0) & length.isfinite()  # so that only keys are exchanged
        new = valid.sum(dim=1)
        order = valid.cumsum(dim=1) - 1  # index among the new keys of its class
        kept = valid & (order >= (new - self.capacity).unsqueeze(1))
        row = self.start.unsqueeze(1) + (self.pointer.unsqueeze(1) + order) % self.capacity.unsqueeze(1)
        row = row.where(kept, len(self.keys) - 1)
        self.keys.index_copy_(0, row.flatten(), keys.where(kept.unsqueeze(2), 0).flatten(0, 1))
        self.pointer.copy_((self.pointer + new) % self.capacity)
        self.count.copy_((self.count + new).minimum(self.capacity))

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """Return keys sampled uniformly from each queue, with replacement.

        Args:
            count: number N of keys.

        Returns:
            Keys, (K, N, D) half, zeros if a queue is empty, and (K,) bool, whether each queue has keys.
        """
        row = self.start.unsqueeze(1) + random_places(self.count, count)
        filled = self.count > 0
        return self.keys[row.where(filled.unsqueeze(1), len(self.keys) - 1)], filled

    def clear(self) -> None:
        """Empty all queues."""
        self.count.zero_()
        self.pointer.zero_()
