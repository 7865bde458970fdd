"""Training step on Lightning Fabric, for any method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo.models.encoder import Encoder
from zoo.models.lora import add_lora
from zoo.models.segmentation import segmentation_networks
from zoo.preprocess import channel_statistics
from zoo.train.blocks.mixing import with_mixed_labels
from zoo.train.loop import compute
from zoo.train.optim import set_learning_rates

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor
    from torch.optim import Optimizer

    from zoo.preprocess import ChannelStatistics, Preprocessing
    from zoo.train.method import Batch, Method, Progress
    from zoo.train.recipe.schema import Recipe


RUNNING = ("running_mean", "running_var")
"""Names of the running statistics of BatchNorm."""


class TrainingStep:
    """Takes steps of a method: `step(parts, progress)`.

    Args:
        fabric: launched Fabric with device, processes and precision.
        method: method to train.
        recipe: recipe with precision and compute settings.
    """

    def __init__(self, fabric: Fabric, method: Method, recipe: Recipe) -> None:
        self.fabric, self.method, self.recipe = fabric, method, recipe
        if recipe.lora:
            add_lora(method, recipe.lora)
        compute.prepare(method, recipe.compute, fabric.device, fabric.world_size)
        self.layout = recipe.compute.layout(fabric.device)
        self.statistics = channel_statistics(recipe.preprocessing, torch.zeros((), device=fabric.device))
        _tell_encoders(method, recipe.preprocessing)
        if recipe.freeze_encoder:
            _freeze_encoders(method)
        self.optimizers: list[Optimizer] = method.optimizers()
        self.module, *wrapped = _listed(fabric.setup(method, *self.optimizers))
        self.wrapped: list[Any] = wrapped
        self.norm_statistics = NormStatistics(method)
        self.bad_steps = 0
        self.bad_steps_in_a_row = 0

    def __call__(self, parts: list[Batch], progress: Progress) -> dict[str, Tensor]:
        """Take one optimizer step on the sum of the method's losses, averaged over the parts of the batch.

        A step whose loss or gradient is not finite changes no weight and no running statistics. The losses
        are returned, detached.
        """
        if progress.phase_step == 0:
            self.method.start_phase(progress)
        set_learning_rates(self.optimizers, progress.step, progress.steps)
        self.norm_statistics.keep()
        losses = self.backward(parts, progress)
        if self.is_healthy(torch.stack(list(losses.values())).sum()):
            self.update()
        else:
            self.norm_statistics.restore()
        self.method.after_step(progress)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        return losses

    def backward(self, parts: list[Batch], progress: Progress) -> dict[str, Tensor]:
        """Add up the gradients of the mean losses of these batches and return the losses, detached.

        Processes exchange gradients once, with the last batch.
        """
        mean: dict[str, Tensor] = {}
        for number, part in enumerate(parts, start=1):
            with self.fabric.no_backward_sync(self.module, enabled=number < len(parts)):
                losses: dict[str, Tensor] = self.module(self.prepared(part), progress)
                shares = {name: loss / len(parts) for name, loss in losses.items()}
                self.fabric.backward(torch.stack(list(shares.values())).sum())
            mean = {name: share.detach() + mean.get(name, 0) for name, share in shares.items()}
        return mean

    def prepared(self, batch: Batch) -> Batch:
        """Return the batch on the device, labeled images mixed if they are to be, images normalized."""
        return normalized(with_mixed_labels(self.fabric.to_device(batch)), self.statistics, self.layout)

    def is_healthy(self, total: Tensor) -> bool:
        """Return whether loss and gradients are finite on all processes; count the step as bad otherwise."""
        finite = torch.isfinite(total)
        if self.recipe.precision != "fp16":  # the gradient scaler of fp16 skips overflows by itself
            gradients = [p.grad for p in self.method.parameters() if p.grad is not None]
            finite = finite & torch.isfinite(nn.utils.get_total_norm(gradients))
        healthy = bool(self.fabric.all_reduce(finite.float(), reduce_op="mean") == 1)
        self.bad_steps += not healthy
        self.bad_steps_in_a_row = 0 if healthy else self.bad_steps_in_a_row + 1
        return healthy

    def update(self) -> None:
        """Step all optimizers, then update the gradient scaler once."""
        scaler = getattr(self.fabric._precision, "scaler", None)
        if scaler is None:
            for optimizer in self.wrapped:
                optimizer.step()
            return
        for optimizer in self.optimizers:
            if any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
                scaler.step(optimizer)
        scaler.update()


def normalized(
    batch: Batch, statistics: ChannelStatistics, layout: torch.memory_format = torch.contiguous_format
) -> Batch:
    """Return a batch with normalized images.

    Args:
        batch: batch with images as they are read, on the device.
        statistics: statistics by channel (`zoo.preprocess.channel_statistics`).
        layout: memory layout of the images.
    """
    images = {
        name: statistics.normalized(image).contiguous(memory_format=layout)
        for name, image in batch._asdict().items()
        if name.startswith("image") and image is not None
    }
    return batch._replace(**images)


def _tell_encoders(method: Method, preprocessing: Preprocessing) -> None:
    """Set what images are normalized by: runs of version 0.1 used ImageNet's statistics for all weights."""
    for encoder in (module for module in method.modules() if isinstance(module, Encoder)):
        encoder.mean, encoder.std = preprocessing.mean, preprocessing.std


def _freeze_encoders(method: Method) -> None:
    """Freeze the encoders of all segmentation networks; the other networks of a method still learn."""
    for network in segmentation_networks(method).values():
        network.freeze_encoder()


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]


class NormStatistics:
    """Copy of the running statistics of all networks of a method before a step, restored if it is skipped.

    Args:
        method: method on its device.
    """

    def __init__(self, method: nn.Module) -> None:
        self.current: list[Tensor] = [
            buffer for name, buffer in method.named_buffers() if name.rpartition(".")[2] in RUNNING
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
