"""Running statistics of normalization, which a forward pass changes and a step that is not taken must not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

NAMES = ("running_mean", "running_var")


class NormStatistics:
    """Keeps the running statistics of all networks of a method as they were before a step.

    Args:
        method: on its device.
    """

    def __init__(self, method: nn.Module) -> None:
        self.current: list[Tensor] = [
            buffer for name, buffer in method.named_buffers() if name.rpartition(".")[2] in NAMES
        ]
        self.kept = [buffer.clone() for buffer in self.current]

    def keep(self) -> None:
        """Keep them as they are."""
        if self.current:
            torch._foreach_copy_(self.kept, self.current)

    def restore(self) -> None:
        """Make them what was kept."""
        if self.current:
            torch._foreach_copy_(self.current, self.kept)
