"""Activations that are computed again in the backward pass instead of kept (Chen et al., 2016)."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import MethodType
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator


def recompute_activations(body: nn.Module) -> None:
    """Keep only the inputs of each stage of a network for the backward pass.

    Results are those of the network as it was: BatchNorm's running statistics move in the first pass alone,
    dropout draws the same numbers twice.

    Args:
        body: a network whose children run one after the other; those with convolutions inside are stages.
    """
    for stage in body.children():
        if not isinstance(stage, nn.Conv2d) and any(isinstance(m, nn.Conv2d) for m in stage.modules()):
            stage.forward = MethodType(_forward, stage)


def _forward(stage: nn.Module, *inputs: Any) -> Any:
    return checkpoint(
        MethodType(type(stage).forward, stage),
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _without_tracking(stage)),
    )


@contextmanager
def _without_tracking(stage: nn.Module) -> Iterator[None]:
    """Let BatchNorm move copies of its running statistics for a while."""
    norms = [module for module in stage.modules() if isinstance(module, _BatchNorm)]
    kept = [norm._buffers for norm in norms]
    try:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers = {
                name: None if value is None else value.clone() for name, value in buffers.items()
            }
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers = buffers
