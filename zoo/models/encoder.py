"""Encoders: image classification networks without their heads, which return features at several strides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.layers import Format  # type: ignore[attr-defined]
from timm.models import PretrainedCfg
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import RecipeError
from zoo.models.origin import Origin
from zoo.models.pretrained import PACKAGED, packaged_origin, packaged_state
from zoo.plugins import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoo.models.pretrained import State
    from zoo.preprocess import Channels

EXAMPLES = "resnet50, mobilenetv3_large_100, convnext_tiny, pvt_v2_b0 or hrnet_w18"

PROBE_SIZES = ((64, 96), (128, 192))
"""Heights and widths, rounded up to the largest stride, that encoders are tried with: some need more than the
first."""


WITHOUT_PRETRAINED = ContextVar("without_pretrained", default=False)
"""Whether `without_pretrained` holds."""


@contextmanager
def without_pretrained() -> Iterator[None]:
    """Build segmentation networks and classifiers with random weights for a while.

    Their weights are loaded afterwards. Other networks of a method, such as ELN's localizer, still start from
    pretrained weights.
    """
    token = WITHOUT_PRETRAINED.set(True)
    try:
        yield
    finally:
        WITHOUT_PRETRAINED.reset(token)


class UnsuitableError(RecipeError):
    """A model of timm that cannot be built with the options that it was asked for."""


class Encoder(nn.Module, ABC):
    """The part of a segmentation network that sees the image.

    Encoders are constructed with these arguments; one that wraps another network calls it `body`, which is
    what `torch.compile` compiles.

    Args:
        name: of the encoder.
        output_stride: 8, 16 or 32, wanted of the last features; an encoder may have strides of its own.
        pretrained: start from pretrained weights.
        in_channels: channels of the input; ELN's localizer sees more than an image.
        multi_grid: factors on the dilation of the last stage's blocks, e.g. (1, 2, 4).

    Raises:
        RecipeError: the encoder cannot be built so.
    """

    channels: tuple[int, ...]
    """Channels of each of the features, fine to coarse."""
    strides: tuple[int, ...]
    """Size of the image over the size of each of the features."""
    size_multiple: int = 1
    """`encode` takes images whose height and width are multiples of it."""
    mean: Channels
    """Mean of each RGB channel, images in [0, 1], that the weights expect images to be normalized by."""
    std: Channels
    """Standard deviation of each RGB channel, images in [0, 1]."""
    origin: Origin | None = None
    """Of the weights that it started from; None for random ones."""

    @abstractmethod
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

    @abstractmethod
    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the features of images, (B, C, h, w) each, fine to coarse.

        Args:
            images: (B, in_channels, H, W) float, H and W multiples of `size_multiple`.
        """

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features of images of any size, (B, C, h, w) each, fine to coarse.

        Images are padded with zeros, the mean color, at the right and the bottom to multiples of
        `size_multiple`; the features of the padding are cut off.

        Args:
            images: (B, in_channels, H, W) float.
        """
        multiple = self.size_multiple
        if multiple == 1:
            return self.encode(images)
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % multiple, 0, -height % multiple))
        return [
            each[..., : (height + stride - 1) // stride, : (width + stride - 1) // stride]
            for each, stride in zip(self.encode(padded), self.strides, strict=True)
        ]


class TimmEncoder(Encoder):
    """A model of timm that returns its stages: a CNN, or a pyramid of transformer blocks.

    A model whose strides cannot be chosen keeps its own.

    Args:
        state: weights under the names of the model, instead of pretrained ones.
    """

    def __init__(
        self,
        name: str,
        *,
        output_stride: int = 16,
        pretrained: bool = False,
        in_channels: int = 3,
        multi_grid: tuple[int, ...] | None = None,
        state: State | None = None,
    ) -> None:
        super().__init__(name)
        self.body, self.size_multiple = _create_stages(
            name, output_stride, in_channels, pretrained=pretrained, state=state
        )
        self.channels, self.strides = _channels_and_strides(self.body)
        self.mean, self.std = normalization_of(name)
        if in_channels != 3:
            _renew_first_conv(self.body)
        if multi_grid is not None:
            _apply_multi_grid(self.body, multi_grid, name)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the features of each stage, (B, C, h, w).

        Args:
            images: (B, in_channels, H, W) float.
        """
        stages: list[Tensor] = self.body(images)
        if getattr(self.body, "output_fmt", None) == Format.NHWC:
            return [stage.permute(0, 3, 1, 2) for stage in stages]
        return stages


ENCODERS: Table[type[Encoder]] = Table("zoo.encoders", type, {})
"""Encoders that are no models of timm, by name; another package adds a row by an entry point."""


def build_encoder(name: str, **options: Any) -> Encoder:
    """Return a new encoder: one of `ENCODERS`, or else a model of timm.

    Args:
        name: of the encoder.
        options: of `Encoder`.

    Raises:
        RecipeError: no such encoder, or its weights cannot be had.
    """
    encoder = ENCODERS.get(name, TimmEncoder)(name, **options)
    if options.get("pretrained"):
        encoder.origin = pretrained_origin(name)
    return encoder


def normalization_of(name: str) -> tuple[Channels, Channels]:
    """Return the mean and standard deviation that an encoder's weights expect, without building it.

    Raises:
        RecipeError: no such encoder.
    """
    if name in ENCODERS:
        return ENCODERS[name].mean, ENCODERS[name].std
    _check_name(name)
    weights = timm.get_pretrained_cfg(name) or PretrainedCfg()
    (red, green, blue), (std_red, std_green, std_blue) = weights.mean, weights.std
    return (red, green, blue), (std_red, std_green, std_blue)


def create_timm(name: str, *, pretrained: bool, state: State | None = None, **options: Any) -> nn.Module:
    """Return a network of timm.

    Args:
        name: of the model.
        pretrained: with its pretrained weights, those of an installed package first.
        state: weights under the names of the model, instead of pretrained ones.
        options: of `timm.create_model`.

    Raises:
        UnsuitableError: the model has none of these options.
        RecipeError: no such model, or its weights cannot be had.
    """
    _check_name(name)
    state = packaged_state(name) if pretrained and state is None else state
    overlay: dict[str, Any] = {} if state is None else {"pretrained_cfg_overlay": {"state_dict": state}}
    try:
        network = timm.create_model(name, pretrained=pretrained or state is not None, **overlay, **options)
    except (NotImplementedError, AssertionError, TypeError, AttributeError, KeyError) as error:
        listed = ", ".join(f"{key}={value}" for key, value in options.items())
        raise UnsuitableError(
            f"encoder {name} cannot be built with {listed} ({_first_line(error)}): use one such as {EXAMPLES}"
        ) from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise RecipeError(
            f"the ImageNet weights of {name} could not be had ({_first_line(error)}): connect to the Hugging "
            f"Face Hub (HF_ENDPOINT for a mirror, HF_HOME for a cache that holds them), or start from random "
            f"weights with --no-pretrained, which needs many more steps{_hint(name)}"
        ) from error
    if state is not None:
        for module in network.modules():  # in which timm keeps the weights once more
            getattr(module, "pretrained_cfg", {}).pop("state_dict", None)
    return network


def _hint(name: str) -> str:
    architecture = name.partition(".")[0]
    if architecture not in PACKAGED:
        return ""
    return f"; --encoder {architecture} needs no download with the package {PACKAGED[architecture].package}"


def _check_name(name: str) -> None:
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=5)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise RecipeError(f"encoder {name} is unknown, expected a timm model such as resnet50{hint}")


def _create_stages(
    name: str, output_stride: int, in_channels: int, *, pretrained: bool, state: State | None
) -> tuple[nn.Module, int]:
    """Return a model of timm that returns its stages, and what sizes of images must be multiples of.

    Raises:
        RecipeError: no such model, or none that takes images of any size.
    """
    refusals = []
    for options in ({"output_stride": output_stride}, {}, {"strict_img_size": False}):
        try:
            body = create_timm(
                name,
                pretrained=pretrained,
                state=state,
                features_only=True,
                in_chans=in_channels,
                **options,
            )
            return body, _size_multiple(body, name, in_channels)
        except UnsuitableError as error:
            refusals.append(error)
    raise refusals[1]  # of the model as timm builds it by itself


def _channels_and_strides(body: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return channels and strides of each stage."""
    info: Any = body.feature_info  # of timm; the type of a module's attribute is not known
    return tuple(info.channels()), tuple(info.reduction())


@torch.no_grad()
def _size_multiple(body: nn.Module, name: str, in_channels: int) -> int:
    """Return what height and width of images must be multiples of, found by running a model on zeros.

    Raises:
        UnsuitableError: the model takes no image of `PROBE_SIZES`, rounded up, nor of sizes beside them.
    """
    multiple = max(_channels_and_strides(body)[1])
    reasons: list[Exception] = []
    body.eval()
    for size in PROBE_SIZES:
        height, width = (-(-length // multiple) * multiple for length in size)
        for found, shape in ((1, (height + 1, width - 1)), (multiple, (height, width))):
            try:
                body(next(body.parameters()).new_zeros(1, in_channels, *shape))
            except (RuntimeError, ValueError, AssertionError) as error:
                reasons.append(error)
            else:
                body.train()
                return found
    raise UnsuitableError(
        f"encoder {name} takes images of its own size only ({_first_line(reasons[-1])}): use one such as "
        f"{EXAMPLES}"
    ) from reasons[-1]


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


def pretrained_origin(name: str) -> Origin:
    """Return the weights that an encoder starts from, with the license that timm or their package states.

    Args:
        name: of the encoder; a model of timm without a tag starts from timm's default for it.
    """
    if name in ENCODERS:
        return Origin(kind="encoder", name=name)
    return packaged_origin(name) or timm_origin(name)


def timm_origin(name: str) -> Origin:
    """Return the weights that timm downloads for a model."""
    weights = timm.get_pretrained_cfg(name) or PretrainedCfg()
    return Origin(kind="timm", name=f"{weights.architecture}.{weights.tag}", license=weights.license)
