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
from timm.models import PretrainedCfg, is_model_in_modules
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import RecipeError
from zoo.models.origin import Origin
from zoo.models.pretrained import PACKAGED, packaged_origin, packaged_state
from zoo.models.vit import TokenMaps, is_plain_transformer
from zoo.plugins import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoo.models.pretrained import State
    from zoo.preprocess import Channels

EXAMPLES = "resnet50, mobilenetv3_large_100, convnext_tiny, pvt_v2_b0, hrnet_w18 or vit_small_patch14_dinov2"

PROBE_SIZES = ((64, 96), (128, 192))
"""Heights and widths, rounded up to the largest stride, of trial images: some encoders need the larger."""


WITHOUT_PRETRAINED = ContextVar("without_pretrained", default=False)
"""Whether `without_pretrained` is active."""


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
    """A timm model that cannot be built with the requested options."""


class Encoder(nn.Module, ABC):
    """The part of a segmentation network that computes features of the image.

    All encoders take these arguments. An encoder that wraps another network stores it as `body`, which
    `torch.compile` compiles.

    Args:
        name: name of the encoder.
        output_stride: requested stride of the last features, 8, 16 or 32; an encoder may have fixed strides.
        pretrained: whether to start from pretrained weights.
        in_channels: number of input channels; more than 3 for ELN's localizer.
        multi_grid: factors on the dilation of the last stage's blocks, e.g. (1, 2, 4).

    Raises:
        RecipeError: the encoder does not support these options.
    """

    channels: tuple[int, ...]
    """Channels of the features, fine to coarse."""
    strides: tuple[int, ...]
    """Strides of the features relative to the image."""
    size_multiple: int = 1
    """Height and width of the images of `encode` are multiples of it."""
    mean: Channels
    """Mean of each RGB channel, images in [0, 1], with which the weights expect normalized images."""
    std: Channels
    """Standard deviation of each RGB channel, images in [0, 1]."""
    origin: Origin | None = None
    """Origin of the initial weights; None for random ones."""

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
        """Return the features of images, each (B, C, h, w), fine to coarse.

        Args:
            images: (B, in_channels, H, W) float, with H and W multiples of `size_multiple`.
        """

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features of images of any size, each (B, C, h, w), fine to coarse.

        Images are padded with zeros, the mean color, on the right and bottom to multiples of `size_multiple`;
        the features of the padding are cropped. If all features are as coarse as that, there is nothing to
        crop, and images are resized to the next multiples instead.

        Args:
            images: (B, in_channels, H, W) float.
        """
        multiple = self.size_multiple
        if multiple == 1:
            return self.encode(images)
        height, width = images.shape[-2:]
        if min(self.strides) >= multiple:
            size = tuple((length + multiple - 1) // multiple * multiple for length in (height, width))
            return self.encode(F.interpolate(images, size=size, mode="bilinear", align_corners=True))
        padded = F.pad(images, (0, -width % multiple, 0, -height % multiple))
        return [
            each[..., : (height + stride - 1) // stride, : (width + stride - 1) // stride]
            for each, stride in zip(self.encode(padded), self.strides, strict=True)
        ]


class TimmEncoder(Encoder):
    """A timm model that returns the features of its stages: a CNN, a pyramid or a plain transformer.

    A model with fixed strides ignores `output_stride`. A plain transformer returns four features of one
    stride, the size of its patches.

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
"""Encoders other than timm models, by name; other packages add rows by entry points."""


def build_encoder(name: str, **options: Any) -> Encoder:
    """Return a new encoder: one of `ENCODERS`, or else a timm model.

    Args:
        name: name of the encoder.
        options: keyword arguments of `Encoder`.

    Raises:
        RecipeError: the encoder is unknown, or its weights are not available.
    """
    encoder = ENCODERS.get(name, TimmEncoder)(name, **options)
    if options.get("pretrained"):
        encoder.origin = pretrained_origin(name)
    return encoder


def normalization_of(name: str) -> tuple[Channels, Channels]:
    """Return the mean and standard deviation that an encoder's weights expect, without building it.

    Raises:
        RecipeError: the encoder is unknown.
    """
    if name in ENCODERS:
        return ENCODERS[name].mean, ENCODERS[name].std
    _check_name(name)
    weights = timm_weights(name)
    (red, green, blue), (std_red, std_green, std_blue) = weights.mean, weights.std
    return (red, green, blue), (std_red, std_green, std_blue)


def create_timm(name: str, *, pretrained: bool, state: State | None = None, **options: Any) -> nn.Module:
    """Return a timm model.

    Args:
        name: name of the model.
        pretrained: whether to load its pretrained weights, preferably from an installed package.
        state: weights under the names of the model, instead of pretrained ones.
        options: keyword arguments of `timm.create_model`.

    Raises:
        UnsuitableError: the model does not support these options.
        RecipeError: the model is unknown, or its weights are not available.
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
            f"the pretrained weights of {name} cannot be loaded ({_first_line(error)}): connect to the "
            f"Hugging Face Hub (HF_ENDPOINT for a mirror, HF_HOME for a cache that holds them), or start "
            f"from random weights with --no-pretrained, which needs many more steps{_hint(name)}"
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
    """Return a timm model that returns its stages, and the number that image sizes must be multiples of.

    Raises:
        RecipeError: the model is unknown, or accepts only images of one size.
    """
    refusals = []
    for options in _ways(name, output_stride):
        try:
            body = create_timm(name, pretrained=pretrained, state=state, in_chans=in_channels, **options)
            if "features_only" not in options:
                body = TokenMaps(body)
            return body, _size_multiple(body, name, in_channels)
        except UnsuitableError as error:
            refusals.append(error)
    raise refusals[1]  # the error with timm's default options


def _ways(name: str, output_stride: int) -> tuple[dict[str, Any], ...]:
    """Return the options of timm that may make an encoder of a model, the best first."""
    if is_plain_transformer(name):
        return {"dynamic_img_size": True}, {}
    ways: tuple[dict[str, Any], ...] = ({"output_stride": output_stride}, {}, {"strict_img_size": False})
    return tuple({"features_only": True, **options} for options in ways)


def _channels_and_strides(body: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return channels and strides of each stage."""
    if isinstance(body, TokenMaps):
        return body.channels, body.strides
    info: Any = body.feature_info  # module attributes have no type
    return tuple(info.channels()), tuple(info.reduction())


@torch.no_grad()
def _size_multiple(body: nn.Module, name: str, in_channels: int) -> int:
    """Return the number that image sizes must be multiples of, found by running the model on zeros.

    Raises:
        UnsuitableError: the model accepts no images of `PROBE_SIZES`, rounded up, or of neighboring sizes.
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
    """Reinitialize the first convolution, as timm would repeat the RGB weights over other channels."""
    next(module for module in body.modules() if isinstance(module, nn.Conv2d)).reset_parameters()


def _apply_multi_grid(body: nn.Module, factors: tuple[int, ...], name: str) -> None:
    """Multiply the dilation of the 3x3 convolution in each block of the last ResNet stage by its factor."""
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


def has_fixed_size(name: str) -> bool:
    """Return whether a model of timm is built for one size of images, which can be chosen."""
    return timm_weights(name).fixed_input_size


def takes_multi_grid(name: str) -> bool:
    """Return whether an encoder is a ResNet of timm, whose last stage has blocks to dilate."""
    return is_model_in_modules(name, ("resnet",))


def freeze_batch_norm_affine(module: nn.Module) -> None:
    """Freeze the scale and shift of every BatchNorm, but not its statistics."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            for parameter in child.parameters():
                parameter.requires_grad_(False)


def pretrained_origin(name: str) -> Origin:
    """Return the weights that an encoder starts from, with the license that timm or their package states.

    Args:
        name: name of the encoder; a timm model without a tag has timm's default weights.
    """
    if name in ENCODERS:
        return Origin(kind="encoder", name=name)
    return packaged_origin(name) or timm_origin(name)


def timm_weights(name: str) -> PretrainedCfg:
    """Return timm's description of the weights of a model; that of none if it has none."""
    return timm.get_pretrained_cfg(name) or PretrainedCfg()


def timm_origin(name: str) -> Origin:
    """Return the weights that timm downloads for a model."""
    weights = timm_weights(name)
    return Origin(kind="timm", name=f"{weights.architecture}.{weights.tag}", license=weights.license)
