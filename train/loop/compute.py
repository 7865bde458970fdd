"""Compute settings: memory layout, compilation, activation recomputation, synchronized BatchNorm.

None of them changes a method; results differ only by rounding.
"""

from __future__ import annotations

import math
import os
from contextlib import contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

import torch
from timm.layers import BatchNormAct2d, convert_sync_batchnorm  # type: ignore[attr-defined]
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from zoo.models.classifier import ImageClassifier
from zoo.models.decoders.decoder import Decoder
from zoo.models.discriminator import Discriminator
from zoo.models.encoder import Encoder
from zoo.models.vit import TokenMaps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from zoo.train.recipe.schema import ComputeConfig


BACKEND = "inductor"
RECOMPILE_LIMIT = 64
"""Limit of graphs of a function: networks x shapes x modes. After PyTorch's 8, it falls back to eager."""


def prepare(method: nn.Module, config: ComputeConfig, device: torch.device, processes: int) -> None:
    """Apply compute settings to a method in place, before Fabric wraps it; parameters stay the same objects.

    The choice of algorithms applies to the whole process.
    """
    _set_algorithms(config)
    if config.sync_batch_norm and processes > 1:
        synchronize_batch_norm(method, device)
    method.to(memory_format=config.layout(device))
    if config.recompute:
        for encoder in (module for module in method.modules() if isinstance(module, Encoder)):
            recompute_activations(_body(encoder))
    if config.compile:
        torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
        for network in compiled_parts(method):
            network.compile(backend=BACKEND)


def compiled_parts(method: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules to compile: those without Python branches that depend on the step."""
    for module in method.modules():
        if isinstance(module, Encoder):
            yield _body(module)
        elif isinstance(module, Discriminator | ImageClassifier):
            yield module.body
        elif isinstance(module, Decoder):
            yield module


def _body(encoder: Encoder) -> nn.Module:
    """Return the network that an encoder wraps, or the encoder if it wraps none."""
    body: nn.Module = getattr(encoder, "body", encoder)
    return body


def _set_algorithms(config: ComputeConfig) -> None:
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first matrix product


def recompute_activations(body: nn.Module) -> None:
    """Keep only the inputs of groups of blocks for the backward pass, and recompute the rest.

    A stage of n blocks is split into groups of about sqrt(n) blocks, so that the stored inputs of groups and
    the activations of a recomputed group take about the same memory.

    Results are unchanged: BatchNorm's running statistics are updated only in the first pass, and dropout
    draws the same numbers twice.

    Args:
        body: network whose children run in sequence; those that contain convolutions are stages. Each block
            of a plain transformer is a stage.
    """
    for stage in _stages(body):
        stage.forward = MethodType(_forward, stage)


def _stages(body: nn.Module) -> Iterable[nn.Module]:
    if isinstance(body, TokenMaps):
        return cast("Iterable[nn.Module]", body.model.blocks)
    return filter(_is_block, body.children())


def _forward(stage: nn.Module, *inputs: Any, **options: Any) -> Any:
    if not isinstance(stage, nn.Sequential) or not all(map(_is_block, stage)):
        return _recomputed(MethodType(type(stage).forward, stage), [stage], *inputs, **options)
    blocks, (value,) = list(stage), inputs
    size = math.isqrt(len(blocks))
    for start in range(0, len(blocks), size):
        group = blocks[start : start + size]
        value = _recomputed(partial(_run, group), group, value)
    return value


def _is_block(module: nn.Module) -> bool:
    """Return whether a module is more than one layer: in-place layers must not overwrite a stored input."""
    return not isinstance(module, nn.Conv2d) and any(isinstance(m, nn.Conv2d) for m in module.modules())


def _run(blocks: list[nn.Module], value: Any) -> Any:
    for block in blocks:
        value = block(value)
    return value


def _recomputed(forward: Callable[..., Any], modules: list[nn.Module], *inputs: Any, **options: Any) -> Any:
    def contexts() -> tuple[Any, Any]:
        return nullcontext(), _without_tracking(modules)

    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)


@contextmanager
def _without_tracking(modules: list[nn.Module]) -> Iterator[None]:
    """Let BatchNorm update copies of its running statistics in the block."""
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


def synchronize_batch_norm(module: nn.Module, device: torch.device) -> None:
    """Replace every BatchNorm inside a module by a synchronized one; parameters stay the same objects.

    Args:
        module: module, which is changed in place.
        device: device on which it will run.
    """
    if device.type == "cuda":
        convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return
    for name, child in list(module.named_children()):
        if isinstance(child, _BatchNorm):
            setattr(module, name, CpuSyncBatchNorm(child))
        else:
            synchronize_batch_norm(child, device)


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """Synchronized BatchNorm for CPUs that shares parameters and statistics with the BatchNorm it replaces.

    Args:
        norm: BatchNorm of torch, or of timm with an activation.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self._parameters = norm._parameters
        self._buffers = norm._buffers
        after = (norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else ()
        self.after = nn.Sequential(*after)
        self.train(norm.training)

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalized features.

        Args:
            images: (B, C, H, W) float.
        """
        normal = self._of_all(images) if self.training else super().forward(images)
        return cast("Tensor", self.after(normal))

    def _of_all(self, images: Tensor) -> Tensor:
        """Return features normalized by mean and variance over all processes; gradients flow through both."""
        places, dtype = (0, 2, 3), images.dtype
        images = images.to(torch.promote_types(dtype, torch.float32))  # half precision cannot count pixels
        count = images.new_tensor([images.numel() / images.shape[1]])
        sums = _summed(torch.cat([images.sum(places), count]))
        total, mean = sums[-1], sums[:-1] / sums[-1]
        centered = images - mean[:, None, None]
        variance = _summed(centered.square().sum(places)) / total
        self._track(mean.detach(), variance.detach() * total / (total - 1))
        normal = centered * torch.rsqrt(variance + self.eps)[:, None, None]
        if self.affine:
            normal = normal * self.weight[:, None, None] + self.bias[:, None, None]
        return normal.to(dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _Sum(torch.autograd.Function):
    """Sum of a tensor over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        return _sum(value)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return _sum(gradients[0])


def _summed(value: Tensor) -> Tensor:
    return cast("Tensor", _Sum.apply(value))


def _sum(value: Tensor) -> Tensor:
    total = value.clone()
    distributed.all_reduce(total)
    return total
