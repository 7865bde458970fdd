"""Exchange of tensors between the processes of a run."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def gathered(value: Tensor) -> Tensor:
    """Return the values of all processes, (processes, ...), ordered by rank, without gradients.

    Args:
        value: tensor of the same shape and dtype in all processes.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return value.detach().unsqueeze(0)
    parts = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(_world_size())]
    distributed.all_gather(parts, value.detach().contiguous())
    return torch.stack(parts)


def _world_size() -> int:
    return int(distributed.get_world_size())
