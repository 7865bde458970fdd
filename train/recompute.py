"""Activations that are computed again in the backward pass instead of kept (Chen et al., 2016)."""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def recompute_activations(body: nn.Module) -> None:
    """Keep only the inputs of some blocks of a network for the backward pass.

    A stage of n blocks is cut into groups of about the root of n blocks: what is kept between groups, and
    what is alive while one of them is computed again, are then about as large.

    Results are those of the network as it was: BatchNorm's running statistics move in the first pass alone,
    dropout draws the same numbers twice.

    Args:
        body: a network whose children run one after the other; those with convolutions inside are stages.
    """
    for stage in body.children():
        if _is_block(stage):
            stage.forward = MethodType(_forward, stage)


def _forward(stage: nn.Module, *inputs: Any) -> Any:
    if not isinstance(stage, nn.Sequential) or not all(map(_is_block, stage)):
        return _recomputed(MethodType(type(stage).forward, stage), [stage], *inputs)
    blocks, (value,) = list(stage), inputs
    size = math.isqrt(len(blocks))
    for start in range(0, len(blocks), size):
        group = blocks[start : start + size]
        value = _recomputed(partial(_run, group), group, value)
    return value


def _is_block(module: nn.Module) -> bool:
    """Return whether it is more than a layer: one that works in place must not have what is kept as input."""
    return not isinstance(module, nn.Conv2d) and any(isinstance(m, nn.Conv2d) for m in module.modules())


def _run(blocks: list[nn.Module], value: Any) -> Any:
    for block in blocks:
        value = block(value)
    return value


def _recomputed(forward: Callable[..., Any], modules: list[nn.Module], *inputs: Any) -> Any:
    def contexts() -> tuple[Any, Any]:
        return nullcontext(), _without_tracking(modules)

    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _without_tracking(modules: list[nn.Module]) -> Iterator[None]:
    """Let BatchNorm move copies of its running statistics for a while."""
    norms = [m for module in modules for m in module.modules() if isinstance(m, _BatchNorm)]
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
