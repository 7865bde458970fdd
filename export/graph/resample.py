"""Antialiased bicubic resampling as two matrix products, in which position embeddings are exported.

ONNX's `Resize` can antialias, but TensorRT does not implement it. The matrices are computed in the graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Sequence

CUBIC = -0.5
"""Coefficient of Keys' cubic that PyTorch takes where it antialiases."""


def resample_weights(inside: int, outside: int) -> Tensor:
    """Return the share of each of `inside` places in each of `outside`, (outside, inside) float32."""
    wanted = torch.arange(outside, dtype=torch.float32)[:, None]
    scale = inside / torch.scalar_tensor(outside, dtype=torch.float32)
    places = torch.arange(inside, dtype=torch.float32)[None] + 0.5
    distance = ((places - (wanted + 0.5) * scale) / scale.clamp(min=1)).abs()
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance * distance + 1
    far = ((distance - 5) * distance + 8) * distance * CUBIC - 4 * CUBIC
    weights = near.where(distance < 1, far.where(distance < 2, torch.zeros(())))
    return weights / weights.sum(dim=1, keepdim=True)


def resample(features: Tensor, size: Sequence[int]) -> Tensor:
    """Return features at (height, width) `size` as `interpolate` does it, bicubic, with `antialias`.

    Args:
        features: (B, C, h, w) float.
        size: height and width.
    """
    height, width = (
        resample_weights(inside, outside).to(features)
        for inside, outside in zip(features.shape[-2:], size, strict=True)
    )
    return height @ features @ width.T


class ResampleByProducts(TorchFunctionMode):
    """While it is active, antialiased bicubic `interpolate` is computed by `resample`."""

    def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return what `func` returns."""
        kwargs = kwargs or {}
        if func is F.interpolate and kwargs.get("antialias") and kwargs.get("mode") == "bicubic":
            return resample(args[0], kwargs["size"])
        return func(*args, **kwargs)
