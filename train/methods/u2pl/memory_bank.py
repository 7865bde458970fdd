"""A queue of keys for each class, on the device, written and read without the host (U2PL, section 3.3).

The queues of all classes lie one after the other in one tensor of fixed size, so that the bank is saved with
the method and moves with it. At 21 classes, 50,000 + 20 x 30,000 keys of 256 half-precision numbers take
333 MB.
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

    Every process of a run holds the same bank, as long as all push at the same steps.

    Args:
        capacities: keys that each class's queue holds, K numbers.
        channels: D.
    """

    keys: Tensor
    """(sum of capacities + 1, D) half; the last row takes what is thrown away."""
    count: Tensor
    """(K,) int64, keys in each queue."""
    pointer: Tensor
    """(K,) int64, where in each queue the next key goes."""
    capacity: Tensor
    """(K,) int64."""
    start: Tensor
    """(K,) int64, row of `keys` at which each queue starts."""

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
        """Put features of every process into the queues; the oldest keys leave.

        Features that are zero or not finite are left out: one broken step must not spoil the bank.

        Args:
            features: (K, N, D) float of any length, oldest first.
            valid: (K, N) bool, False where there is none.
        """
        keys = F.normalize(features.float(), dim=2).where(valid.unsqueeze(2), 0).half()
        keys = gathered(keys).transpose(0, 1).flatten(1, 2)  # (K, processes * N, D)
        length = keys.float().norm(dim=2)
        valid = (length > 0) & length.isfinite()  # so that the keys alone need to travel
        new = valid.sum(dim=1)
        order = valid.cumsum(dim=1) - 1  # which of its class's new keys this is
        kept = valid & (order >= (new - self.capacity).unsqueeze(1))
        row = self.start.unsqueeze(1) + (self.pointer.unsqueeze(1) + order) % self.capacity.unsqueeze(1)
        row = row.where(kept, len(self.keys) - 1)
        self.keys.index_copy_(0, row.flatten(), keys.where(kept.unsqueeze(2), 0).flatten(0, 1))
        self.pointer.copy_((self.pointer + new) % self.capacity)
        self.count.copy_((self.count + new).minimum(self.capacity))

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """Return keys drawn evenly from each queue, with replacement.

        Args:
            count: N.

        Returns:
            (K, N, D) half, zeros for an empty queue's class, and (K,) bool, whether the queue holds any.
        """
        row = self.start.unsqueeze(1) + random_places(self.count, count)
        filled = self.count > 0
        return self.keys[row.where(filled.unsqueeze(1), len(self.keys) - 1)], filled

    def clear(self) -> None:
        """Empty all queues."""
        self.count.zero_()
        self.pointer.zero_()
