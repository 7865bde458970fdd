"""Running statistics of BatchNorm, which are restored if a step is skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

NAMES = ("running_mean", "running_var")


class NormStatistics:
    """Copy of the running statistics of all networks of a method before a step.

    Args:
        method: method on its device.
    """

    def __init__(self, method: nn.Module) -> None:
        self.current: list[Tensor] = [
            buffer for name, buffer in method.named_buffers() if name.rpartition(".")[2] in NAMES
        ]
        self.kept = [buffer.clone() for buffer in self.current]

    def keep(self) -> None:
        """Save the current statistics."""
        if self.current:
            torch._foreach_copy_(self.kept, self.current)

    def restore(self) -> None:
        """Restore the saved statistics."""
        if self.current:
            torch._foreach_copy_(self.current, self.kept)
