"""Encoders: any CNN of timm that can return its stages and keep a chosen output stride."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import Tensor, nn

from zoo.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable

LOW_LEVEL_STRIDE = 4


class Encoder(nn.Module):
    """An image classification network without its head, cut into a low-level and a high-level output.

    Args:
        name: a timm model with `features_only` (ResNet, MobileNetV3, EfficientNet, ConvNeXt, ...).
        output_stride: 8, 16 or 32: input size over the size of the high-level features.
        pretrained: start from the ImageNet weights of timm.
        in_channels: channels of the input; the first convolution is a new one unless it is 3.
        multi_grid: factors on the dilation of the last stage's blocks (ResNets only), e.g. (1, 2, 4).

    Raises:
        RecipeError: no such encoder, or its weights cannot be had.
    """

    def __init__(
        self,
        name: str,
        *,
        output_stride: int = 16,
        pretrained: bool = False,
        in_channels: int = 3,
        multi_grid: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.body = create_timm(
            name,
            pretrained=pretrained,
            features_only=True,
            output_stride=output_stride,
            in_chans=in_channels,
        )
        feature_info: Any = self.body.feature_info  # of timm; the type of a module's attribute is not known
        reductions = feature_info.reduction()
        if LOW_LEVEL_STRIDE not in reductions:
            raise RecipeError(
                f"encoder {name} has features at strides {reductions}, expected one at {LOW_LEVEL_STRIDE}: "
                f"use a CNN such as resnet18, mobilenetv3_large_100 or convnext_tiny"
            )
        self.low_index = reductions.index(LOW_LEVEL_STRIDE)
        channels = feature_info.channels()
        self.low_channels: int = channels[self.low_index]
        self.middle_channels: int = channels[-2]
        self.high_channels: int = channels[-1]
        if in_channels != 3:
            _renew_first_conv(self.body)
        if multi_grid is not None:
            _apply_multi_grid(self.body, multi_grid, name)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features at stride 4 and at the output stride.

        Args:
            images: (B, in_channels, H, W) float.
        """
        low, _, high = self.stages(images)
        return low, high

    def stages(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features at stride 4, of the last stage but one, and at the output stride.

        Args:
            images: (B, in_channels, H, W) float.
        """
        stages = self.body(images)
        return stages[self.low_index], stages[-2], stages[-1]


def create_timm(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
    """Return a network of timm.

    Args:
        name: of the model.
        pretrained: with its ImageNet weights.
        options: of `timm.create_model`.

    Raises:
        RecipeError: no such model, or none with these options, or its weights cannot be had.
    """
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=5)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise RecipeError(f"encoder {name} is unknown, expected a timm model such as resnet50{hint}")
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except (NotImplementedError, AssertionError, TypeError, AttributeError, KeyError) as error:
        raise RecipeError(
            f"encoder {name} cannot be built with {_listed(options)} ({_first_line(error)}): "
            f"use a CNN such as resnet18, mobilenetv3_large_100 or convnext_tiny"
        ) from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise RecipeError(
            f"the ImageNet weights of {name} could not be had ({_first_line(error)}): connect to the Hugging "
            f"Face Hub (HF_ENDPOINT for a mirror, HF_HOME for a cache that holds them), or start from random "
            f"weights with --no-pretrained, which needs many more steps"
        ) from error


def _listed(options: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _renew_first_conv(body: nn.Module) -> None:
    """Draw the first convolution anew: timm spreads the RGB weights over other numbers of channels."""
    next(module for module in body.modules() if isinstance(module, nn.Conv2d)).reset_parameters()


def _apply_multi_grid(body: nn.Module, factors: tuple[int, ...], name: str) -> None:
    """Multiply the dilation of the 3x3 convolution of each block of the last ResNet stage by its factor."""
    blocks = getattr(body, "layer4", None)
    if blocks is None or len(blocks) != len(factors) or not hasattr(blocks[0], "conv3"):
        raise RecipeError(
            f"multi_grid {list(factors)} needs a bottleneck ResNet whose last stage has {len(factors)} "
            f"blocks, got {name}: leave network.multi_grid out"
        )
    dilation = blocks[-1].conv2.dilation[0]
    for block, factor in zip(blocks, factors, strict=True):
        block.conv2.dilation = (dilation * factor,) * 2
        block.conv2.padding = (dilation * factor,) * 2


def freeze_batch_norm_affine(module: nn.Module) -> None:
    """Stop the training of every BatchNorm's scale and shift; batch statistics go on."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            for parameter in child.parameters():
                parameter.requires_grad_(False)


def kaiming_normal(module: nn.Module) -> None:
    """Draw the convolutions of a decoder Kaiming-normal (fan-in, ReLU); BatchNorm starts at 1 and 0."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_in", nonlinearity="relu")
            if child.bias is not None:
                torch.nn.init.zeros_(child.bias)
        elif isinstance(child, nn.BatchNorm2d):
            nn.init.ones_(child.weight)
            nn.init.zeros_(child.bias)


def pretrained_weights(encoders: Iterable[str]) -> dict[str, str | None]:
    """Return the license of the weights that encoders start from, as timm states it, by their full name.

    Args:
        encoders: names of timm models; one without a tag starts from timm's default for it.

    Returns:
        None for weights whose license timm does not state.
    """
    found: dict[str, str | None] = {}
    for encoder in encoders:
        weights = timm.get_pretrained_cfg(encoder)
        if weights is None:
            found[encoder] = None
        else:
            found[f"{weights.architecture}.{weights.tag}"] = weights.license
    return found
