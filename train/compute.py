"""How the same steps are computed: memory layout, compilation, recomputation, synchronised BatchNorm.

None of it changes what a method is; results differ by rounding alone.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, model_validator
from torch import nn

from zoo.models.classifier import ImageClassifier
from zoo.models.deeplab import DECODERS
from zoo.models.discriminator import Discriminator
from zoo.models.encoder import Encoder
from zoo.train.recompute import recompute_activations
from zoo.train.sync_batch_norm import synchronize_batch_norm

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKEND = "inductor"
RECOMPILE_LIMIT = 64
"""Graphs of one piece of code: networks x shapes x modes; PyTorch goes back to eager, unasked, after 8."""


class ComputeConfig(BaseModel):
    """How steps are computed.

    Args:
        compile: encoders and heads by `torch.compile`; the first steps take minutes.
        channels_last: memory layout of images and convolutions; None: on a GPU, where it is faster.
        sync_batch_norm: BatchNorm statistics over the batches of all processes, where there are several.
        recompute: keep only what enters some blocks of an encoder and compute the rest again in the backward
            pass: less memory, about a third more time.
        deterministic: only algorithms that give the same bits each time; those that a GPU lacks are named in
            a warning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    compile: bool = False
    channels_last: bool | None = None
    sync_batch_norm: bool = True
    recompute: bool = False
    deterministic: bool = False

    @model_validator(mode="after")
    def _check_switches(self) -> ComputeConfig:
        if self.compile and self.recompute:
            raise ValueError(
                "got compile and recompute, expected one of them: compiled code already computes again what "
                "is cheap"
            )
        return self

    def layout(self, device: torch.device) -> torch.memory_format:
        """Return the memory layout of images and weights on a device."""
        asked = device.type == "cuda" if self.channels_last is None else self.channels_last
        return torch.channels_last if asked else torch.contiguous_format


def prepare(method: nn.Module, config: ComputeConfig, device: torch.device, processes: int) -> None:
    """Change a method's networks in place, before it is handed to Fabric; parameters stay the same objects.

    Algorithms are chosen for the whole process.
    """
    _set_algorithms(config)
    if config.sync_batch_norm and processes > 1:
        synchronize_batch_norm(method, device)
    method.to(memory_format=config.layout(device))
    if config.recompute:
        for encoder in (module for module in method.modules() if isinstance(module, Encoder)):
            recompute_activations(encoder.body)
    if config.compile:
        torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
        for network in compiled_parts(method):
            network.compile(backend=BACKEND)


def compiled_parts(method: nn.Module) -> Iterator[nn.Module]:
    """Yield what is compiled: all that has no branches in Python which depend on the step."""
    decoders = tuple(DECODERS.values())
    for module in method.modules():
        if isinstance(module, Encoder | Discriminator | ImageClassifier):
            yield module.body
        elif isinstance(module, decoders):
            yield module


def _set_algorithms(config: ComputeConfig) -> None:
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product
