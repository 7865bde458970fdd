"""Mean teachers: an exponential moving average of a student's weights (Tarvainen & Valpola, NeurIPS 2017)."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

if TYPE_CHECKING:
    from collections.abc import Iterator

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def teacher_of(student: AnyModule) -> AnyModule:
    """Return a copy of the student without gradients."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def copy_state(source: nn.Module, target: nn.Module) -> None:
    """Copy the parameters and buffers of `source` to `target`."""
    pairs = zip(
        (*target.parameters(), *target.buffers()), (*source.parameters(), *source.buffers()), strict=True
    )
    for to, value in pairs:
        to.copy_(value)


@torch.no_grad()
def update_teacher(
    teacher: nn.Module, student: nn.Module, decay: float, *, with_buffers: bool = False
) -> None:
    """Set the teacher's parameters to decay * teacher + (1 - decay) * student.

    Args:
        teacher: teacher, which is changed in place.
        student: student of the same architecture.
        decay: decay in [0, 1].
        with_buffers: whether to average BatchNorm's running statistics too, instead of keeping the teacher's.
    """
    average = get_ema_multi_avg_fn(decay)
    average(list(teacher.parameters()), list(student.parameters()), torch.empty(0))
    if with_buffers:
        pairs = zip(teacher.buffers(), student.buffers(), strict=True)
        moving = [(to, value) for to, value in pairs if to.is_floating_point()]
        average([to for to, _ in moving], [value for _, value in moving], torch.empty(0))


def set_dropout(module: nn.Module, *, active: bool) -> None:
    """Enable or disable all dropout layers; BatchNorm keeps its mode."""
    for child in module.modules():
        if isinstance(child, nn.Dropout | nn.Dropout2d):
            child.train(active)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode in the block."""
    with _restoring_modes(module):
        module.eval()
        yield


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Disable all dropout layers of a module in the block; BatchNorm keeps its mode."""
    with _restoring_modes(module):
        set_dropout(module, active=False)
        yield


@contextmanager
def _restoring_modes(module: nn.Module) -> Iterator[None]:
    modes = {child: child.training for child in module.modules()}
    try:
        yield
    finally:
        for child, training in modes.items():
            child.training = training
