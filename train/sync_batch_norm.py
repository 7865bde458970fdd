"""BatchNorm over the batches of all processes: on a GPU PyTorch's own, on the CPU, where it has none, ours.

Nobody needs it on the CPU but to see that several processes compute what one does.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.layers import BatchNormAct2d, convert_sync_batchnorm  # type: ignore[attr-defined]
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronize_batch_norm(module: nn.Module, device: torch.device) -> None:
    """Replace every BatchNorm inside a module; its parameters stay the same objects.

    Args:
        module: changed in place.
        device: that it will be on.
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
    """Takes the place of a BatchNorm, whose parameters and statistics it shares.

    Args:
        norm: of torch, or of timm with an activation.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self._parameters = norm._parameters
        self._buffers = norm._buffers
        after = (norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else ()
        self.after = nn.Sequential(*after)
        self.train(norm.training)

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalised features.

        Args:
            images: (B, C, H, W) float.
        """
        normal = self._of_all(images) if self.training else super().forward(images)
        return cast("Tensor", self.after(normal))

    def _of_all(self, images: Tensor) -> Tensor:
        """Normalise by the mean and variance of all processes; gradients flow through both."""
        places, dtype = (0, 2, 3), images.dtype
        images = images.to(torch.promote_types(dtype, torch.float32))  # half precision counts no pixels
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
    """The sum of a tensor over all processes; its gradient is the sum of the gradients of all."""

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
