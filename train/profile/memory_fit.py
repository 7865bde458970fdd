"""Model of peak memory by batch size: a curve for each phase through measured batches.

    peak = fixed + each x images of a step + square x images^2

`fixed` is the memory of program, weights, gradients and optimizers; `each` that of the activations of an
image; `square` that of losses over pairs of pixels in the batch, such as ELN's contrast.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from zoo.memory import MIB

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from zoo.train.method import Method, Phase
    from zoo.train.recipe.schema import Recipe


class Curve(NamedTuple):
    """Peak memory of a phase in MiB, as a function of the images of a step."""

    fixed: float
    each: float
    square: float = 0.0

    def at(self, images: float) -> float:
        """Return the peak for a number of images."""
        return self.fixed + self.each * images + self.square * images**2

    def images_in(self, mib: float) -> float:
        """Return the number of images at a peak; infinity if the peak does not grow with them."""
        room = mib - self.fixed
        if room <= 0:
            return 0.0
        if self.square > 0:
            return (math.sqrt(self.each**2 + 4 * self.square * room) - self.each) / (2 * self.square)
        return room / self.each if self.each > 0 else math.inf


def fit_sizes(batch: int) -> tuple[int, int]:
    """Return the two batches to measure for predicting a batch, both smaller than it from 4 on.

    Example:
        >>> [fit_sizes(batch) for batch in (1, 2, 4, 6, 16)]
        [(1, 2), (2, 3), (2, 3), (2, 4), (4, 10)]
    """
    small = max(min(batch, 2), batch // 4)
    return small, max(small + 1, 2 * batch // 3 if batch > 4 else 0)


def with_batch(recipe: Recipe, batch: int) -> Recipe:
    """Return the recipe with another batch of labeled images, and unlabeled images in proportion."""
    unlabeled = max(1, round(batch * recipe.data.batch_u / recipe.data.batch_l))
    data = recipe.data.model_copy(update={"batch_l": batch, "batch_u": unlabeled})
    return recipe.model_copy(update={"data": data})


def images_of(phase: Phase, recipe: Recipe) -> int:
    """Return the number of images of a batch in a phase."""
    return phase.labeled * recipe.data.batch_l + phase.unlabeled * recipe.data.batch_u


def curve_through(points: list[tuple[int, float]]) -> Curve:
    """Return the line through two points (images, MiB), or the parabola through three.

    If noise bends three points downward, which memory never does, it is the line through the outer two.
    """
    (x1, y1), *middle, (x3, y3) = sorted(points)
    each = (y3 - y1) / (x3 - x1)
    for x2, y2 in middle:
        bend = (each - (y2 - y1) / (x2 - x1)) / (x3 - x2)
        if bend > 0:
            slope = each - bend * (x1 + x3)
            return Curve(y1 - slope * x1 - bend * x1**2, slope, bend)
    return Curve(y1 - each * x1, each)


def largest_batch(curves: dict[str, Curve], images: dict[str, float], mib: float) -> int | None:
    """Return the largest batch whose peak stays below a limit; None if no phase grows with its images.

    Args:
        curves: curve of each phase.
        images: number of images of each phase per labeled image of a batch.
        mib: limit in MiB.
    """
    most = min(curve.images_in(mib) / images[name] for name, curve in curves.items())
    return math.floor(most) if math.isfinite(most) else None


def peak_of(phase: dict[str, Any]) -> float | None:
    """Return the highest peak of the parts of a profiled phase, in MiB."""
    peaks = [part["peak_mib"] for part in phase["parts"].values() if part["peak_mib"] is not None]
    return max(peaks, default=None)


def fixed_parts(method: Method, optimizers: list[Optimizer]) -> dict[str, float]:
    """Return the memory of a method that does not depend on the batch, by part, in MiB.

    Args:
        method: method with its networks and buffers.
        optimizers: optimizers after their first step, which allocates their moments.
    """
    networks = {name: [*child.parameters(), *child.buffers()] for name, child in method.named_children()}
    trained = [p for each in optimizers for group in each.param_groups for p in group["params"]]
    state = [
        value
        for each in optimizers
        for values in each.state.values()
        for value in values.values()
        if isinstance(value, torch.Tensor)
    ]
    own = [*method.parameters(recurse=False), *method.buffers(recurse=False)]
    parts = networks | {"buffers": own, "gradients": trained, "optimizers": state}
    return {name: _mib(tensors) for name, tensors in parts.items() if tensors}


def _mib(tensors: list[Tensor]) -> float:
    return sum(each.numel() * each.element_size() for each in tensors) / MIB
