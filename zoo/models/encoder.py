"""Encoders: image classification networks without their heads, which return features at several strides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import Format  # type: ignore[attr-defined]
from timm.models import is_model_in_modules
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import RecipeError
from zoo.models.origin import Origin
from zoo.models.pretrained import packaged_origin
from zoo.models.timm_models import (
    EXAMPLES,
    UnsuitableError,
    apply_multi_grid,
    check_name,
    create_timm,
    first_line,
    has_fixed_size,
    layers_above,
    own_size,
    timm_weights,
)
from zoo.models.vit import TokenMaps, is_plain_transformer
from zoo.plugins import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zoo.models.pretrained import State
    from zoo.preprocess import Channels

PROBE_SIZES = ((64, 96), (128, 192))
"""Heights and widths, rounded up to the largest stride, of trial images: some encoders need the larger."""


ROUNDED = 32
"""Number to whose multiples the size of an encoder for images of one size is rounded up."""

SHIFTED_WINDOWS = ("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr")
"""timm's modules of Swin, whose shifted windows `torch.export` does not finish at dynamic sizes."""


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


class Encoder(nn.Module, ABC):
    """The part of a segmentation network that computes features of the image.

    All encoders take these arguments. An encoder that wraps another network stores it as `body`, which
    `torch.compile` compiles.

    Args:
        name: name of the encoder.
        output_stride: requested stride of the last features, 8, 16 or 32; an encoder may have fixed strides.
        pretrained: whether to start from pretrained weights.
        in_channels: number of input channels. Pretrained RGB weights of the first convolution are adapted to
            others as timm does: summed for one channel, or repeated over the channels and scaled by 3 / C.
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
    size: tuple[int, int] | None = None
    """Height and width of the images of `encode`; None for any multiples of `size_multiple`."""
    mean: Channels
    """Mean of each channel, images in [0, 1], with which the weights expect normalized images."""
    std: Channels
    """Standard deviation of each channel, images in [0, 1]."""
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
        crop, and images are resized to the next multiples instead. With a `size`, images are resized to it.

        Args:
            images: (B, in_channels, H, W) float.
        """
        multiple = self.size_multiple
        if self.size is not None:
            return self.encode(F.interpolate(images, size=self.size, mode="bilinear", align_corners=True))
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

    def layers_above(self) -> dict[str, int]:
        """Return the number of layers above each parameter, by name, for layer-wise learning rates.

        Raises:
            RecipeError: the encoder does not tell.
        """
        raise RecipeError(
            f"layer_decay: {type(self).__name__} has no layers_above: leave layer_decay at 1, or add it"
        )


class TimmEncoder(Encoder):
    """A timm model that returns the features of its stages: a CNN, a pyramid or a plain transformer.

    A model with fixed strides ignores `output_stride`. A plain transformer returns four features of one
    stride, the size of its patches.

    Args:
        pretrained: also, instead of pretrained weights, others under the names of the model.
        size: height and width that the model is built for, if it takes images of one size; None for any.
    """

    def __init__(
        self,
        name: str,
        *,
        output_stride: int = 16,
        pretrained: bool | State = False,
        in_channels: int = 3,
        multi_grid: tuple[int, ...] | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(name)
        self.name = name
        ways = _ways(name, output_stride, size)
        self.body, self.size_multiple = _create_stages(name, in_channels, ways, size, pretrained)
        self.channels, self.strides = _channels_and_strides(self.body)
        self.mean, self.std = normalization_of(name)
        if multi_grid is not None:
            apply_multi_grid(self.body, multi_grid, name)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the features of each stage, (B, C, h, w).

        Args:
            images: (B, in_channels, H, W) float.
        """
        stages: list[Tensor] = self.body(images)
        if getattr(self.body, "output_fmt", None) == Format.NHWC:
            return [stage.permute(0, 3, 1, 2) for stage in stages]
        return stages

    def layers_above(self) -> dict[str, int]:
        """Return the number of layers above each parameter, by name: blocks, and one of norm and head."""
        return {f"body.{name}": above for name, above in layers_above(self.name, self.body).items()}


ENCODERS: Table[type[Encoder]] = Table("zoo.encoders", type, {})
"""Encoders other than timm models, by name; other packages add rows by entry points."""


def build_encoder(name: str, *, size: tuple[int, int] | None = None, **options: Any) -> Encoder:
    """Return a new encoder: one of `ENCODERS`, or else a timm model.

    Args:
        name: name of the encoder.
        size: height and width to which it resizes images; None to leave them as they are.
        options: keyword arguments of `Encoder`.

    Raises:
        RecipeError: the encoder is unknown, or its weights are not available.
    """
    encoder = ENCODERS[name](name, **options) if name in ENCODERS else TimmEncoder(name, size=size, **options)
    encoder.size = size
    if options.get("pretrained") is True:
        encoder.origin = pretrained_origin(name)
    return encoder


def normalization_of(name: str) -> tuple[Channels, Channels]:
    """Return the mean and standard deviation that an encoder's weights expect, without building it.

    Raises:
        RecipeError: the encoder is unknown.
    """
    if name in ENCODERS:
        return ENCODERS[name].mean, ENCODERS[name].std
    check_name(name)
    weights = timm_weights(name)
    (red, green, blue), (std_red, std_green, std_blue) = weights.mean, weights.std
    return (red, green, blue), (std_red, std_green, std_blue)


def _create_stages(
    name: str,
    in_channels: int,
    ways: Sequence[dict[str, Any]],
    size: tuple[int, int] | None,
    pretrained: bool | State,
) -> tuple[nn.Module, int]:
    """Return a timm model that returns its stages, and the number that image sizes must be multiples of.

    Raises:
        RecipeError: the model is unknown, or does not accept images of `size`, or of any if it is None.
    """
    refusals = []
    for options in ways:
        try:
            body = create_timm(name, pretrained=pretrained, in_chans=in_channels, **options)
            if "features_only" not in options:
                body = TokenMaps(body)
            return body, _size_multiple(body, name, in_channels, size)
        except UnsuitableError as error:
            refusals.append(error)
    raise refusals[1 if size is None else 0]  # the error with timm's default options


def _ways(name: str, output_stride: int, size: tuple[int, int] | None) -> tuple[dict[str, Any], ...]:
    """Return the options of timm that may make an encoder of a model, the best first."""
    is_plain = is_plain_transformer(name)
    features = {} if is_plain else {"features_only": True}
    if size is not None and has_fixed_size(name):
        return {**features, "img_size": size}, {**features, "img_size": size, "strict_img_size": False}
    if is_plain:
        return {"dynamic_img_size": True}, {}
    return tuple(
        {**features, **options}
        for options in ({"output_stride": output_stride}, {}, {"strict_img_size": False})
    )


def _channels_and_strides(body: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return channels and strides of each stage."""
    if isinstance(body, TokenMaps):
        return body.channels, body.strides
    info: Any = body.feature_info  # module attributes have no type
    return tuple(info.channels()), tuple(info.reduction())


@torch.no_grad()
def _size_multiple(body: nn.Module, name: str, in_channels: int, size: tuple[int, int] | None) -> int:
    """Return the number that image sizes must be multiples of, found by running the model on zeros.

    Raises:
        UnsuitableError: the model accepts no images of `size`; if it is None, none of `PROBE_SIZES`, rounded
            up, or of neighboring sizes.
    """
    multiple = max(_channels_and_strides(body)[1])
    tried = (
        [(1, size)]
        if size is not None
        else [
            each
            for high, wide in PROBE_SIZES
            for height, width in [(-(-high // multiple) * multiple, -(-wide // multiple) * multiple)]
            for each in ((1, (height + 1, width - 1)), (multiple, (height, width)))
        ]
    )
    reasons: list[Exception] = []
    body.eval()
    for found, shape in tried:
        try:
            body(next(body.parameters()).new_zeros(1, in_channels, *shape))
        except (RuntimeError, ValueError, AssertionError) as error:
            reasons.append(error)
        else:
            body.train()
            return found
    reason = first_line(reasons[-1])
    if size is not None:
        raise UnsuitableError(
            f"encoder {name} cannot run at {size[0]}x{size[1]} ({reason}): set network.encoder_size to "
            f"[{', '.join(map(str, own_size(name)))}], that of its weights, or use one such as {EXAMPLES}"
        ) from reasons[-1]
    raise UnsuitableError(
        f"encoder {name} takes images of one size only ({reason}): set network.encoder_size to it, e.g. "
        f"[256, 256], or use one such as {EXAMPLES}"
    ) from reasons[-1]


def renew_first_conv(body: nn.Module) -> None:
    """Reinitialize the first convolution, in which timm repeats the RGB weights over other channels."""
    next(module for module in body.modules() if isinstance(module, nn.Conv2d)).reset_parameters()


def size_for(name: str, imgsz: tuple[int, int]) -> tuple[int, int] | None:
    """Return the size at which an encoder runs that is built for images of one size; None for all others.

    It is `imgsz` rounded up to multiples of 32 or, if the model does not run at that, the image size of its
    weights. Swin also runs at any size, but its windows then cannot be exported.

    Raises:
        UnsuitableError: the model runs at none of these sizes.
    """
    if name in ENCODERS or not has_fixed_size(name):
        return None
    height, width = (-(-length // ROUNDED) * ROUNDED for length in imgsz)
    wanted: list[tuple[int, int] | None] = [(height, width), own_size(name)]
    if not is_model_in_modules(name, SHIFTED_WINDOWS):
        wanted.insert(0, None)
    refusals = []
    for size in wanted:
        try:
            with torch.device("meta"):
                return build_encoder(name, size=size).size
        except UnsuitableError as error:
            refusals.append(error)
    raise refusals[-1]


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


def timm_origin(name: str) -> Origin:
    """Return the weights that timm downloads for a model."""
    weights = timm_weights(name)
    return Origin(kind="timm", name=f"{weights.architecture}.{weights.tag}", license=weights.license)
