"""Convolutions with TensorFlow's "SAME" padding, exported as ONNX's own.

timm computes the padding of `tf_*` encoders from the image size; at dynamic sizes `torch.export` takes long
to simplify these expressions, which nest from layer to layer; ONNX's `Conv` has the padding as an attribute.
ONNX Runtime refuses the attribute where a convolution is dilated, which in encoders is never so at a stride.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from timm.layers.conv2d_same import Conv2dSame

if TYPE_CHECKING:
    from torch import Tensor, nn


def same_padding_as_attribute(model: nn.Module) -> None:
    """Let each `Conv2dSame` of a model trace to a single ONNX `Conv`; it no longer computes anything else."""
    for module in model.modules():
        if type(module) is Conv2dSame and module.dilation == (1, 1):
            module.forward = partial(_traced, module)  # type: ignore[method-assign]


def _traced(convolution: Conv2dSame, features: Tensor) -> Tensor:
    """Return a placeholder of the shape of the result; only its ONNX node computes anything.

    Args:
        convolution: the layer.
        features: (B, C, H, W) float.
    """
    inputs = [features, convolution.weight]
    if convolution.bias is not None:
        inputs.append(convolution.bias)
    height, width = (
        (size + stride - 1) // stride
        for size, stride in zip(features.shape[-2:], convolution.stride, strict=True)
    )
    return torch.onnx.ops.symbolic(
        "Conv",
        inputs,
        {
            "auto_pad": "SAME_UPPER",
            "strides": list(convolution.stride),
            "group": convolution.groups,
            "kernel_shape": list(convolution.kernel_size),
        },
        dtype=features.dtype,
        shape=(features.shape[0], convolution.out_channels, height, width),
    )
