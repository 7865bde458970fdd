"""DeepLabv3+ (Chen et al., ECCV 2018) and DeepLabv2 (Chen et al., TPAMI 2017) on any `Encoder`.

Both return logits at the resolution of their decoder (stride 4, or the output stride for v2); `resize_logits`
brings them to the size of the image. The two parts are separate modules, so that a method can run one encoder
pass under several decoders (ELN's auxiliary decoders).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.models.encoder import Encoder, kaiming_normal

if TYPE_CHECKING:
    from zoo.models.config import NetworkConfig


class Output(NamedTuple):
    """What a decoder returns."""

    logits: Tensor
    """(B, K, h, w) class scores at the decoder's resolution."""
    embedding: Tensor | None
    """(B, D, h, w) pixel embedding, not normalised; None without an embedding head."""


def resize_logits(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Return logits at (height, width) `size`, bilinear with aligned corners as all four methods do."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a bias-free convolution that keeps the size, BatchNorm, ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def mlp_head(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return two 1x1 convolutions with a ReLU between them: ELN's *Seg* and *Proj* (paper, section 4.1)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 1), nn.ReLU(inplace=True), nn.Conv2d(in_channels, out_channels, 1)
    )


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, atrous 3x3 and image-level branches, concatenated and reduced.

    The image-level branch has no BatchNorm in the `projected` style, which therefore trains with one image.
    """

    def __init__(self, in_channels: int, config: NetworkConfig) -> None:
        super().__init__()
        width = config.decoder_channels
        branches = [conv_bn_relu(in_channels, width)]
        branches += [conv_bn_relu(in_channels, width, 3, rate) for rate in config.rates]
        self.branches = nn.ModuleList(branches)
        if config.aspp == "projected":
            pool = nn.Sequential(nn.Conv2d(in_channels, width, 1, bias=False), nn.ReLU(inplace=True))
        else:
            pool = conv_bn_relu(in_channels, width)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), *pool)
        kernel = 1 if config.aspp == "projected" else 3
        self.reduce = conv_bn_relu(width * (len(branches) + 1), width, kernel)
        self.dropout = _dropout(config.dropout.aspp, config)

    def forward(self, high: Tensor) -> Tensor:
        """Return (B, D, h, w) features.

        Args:
            high: (B, C, h, w) float.
        """
        pooled = self.pool(high).expand(-1, -1, *high.shape[-2:])
        features = [branch(high) for branch in self.branches]
        reduced: Tensor = self.dropout(self.reduce(torch.cat([*features, pooled], dim=1)))
        return reduced


class JointAspp(nn.Module):
    """Atrous spatial pyramid pooling of CPS and RRN: one BatchNorm for all branches, the pooled one added."""

    def __init__(self, in_channels: int, config: NetworkConfig) -> None:
        super().__init__()
        width = config.decoder_channels
        branches = [nn.Conv2d(in_channels, width, 1, bias=False)]
        branches += [
            nn.Conv2d(in_channels, width, 3, padding=rate, dilation=rate, bias=False) for rate in config.rates
        ]
        self.branches = nn.ModuleList(branches)
        self.project = nn.Sequential(*_bn_leaky(width * len(branches)), _conv(width * len(branches), width))
        self.pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), _conv(in_channels, width), *_bn_leaky(width), _conv(width, width)
        )
        self.reduce = nn.Sequential(*_bn_leaky(width))
        self.dropout = _dropout(config.dropout.aspp, config)

    def forward(self, high: Tensor) -> Tensor:
        """Return (B, D, h, w) features.

        Args:
            high: (B, C, h, w) float.
        """
        features = torch.cat([branch(high) for branch in self.branches], dim=1)
        reduced: Tensor = self.dropout(self.reduce(self.project(features) + self.pool(high)))
        return reduced


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


def _bn_leaky(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.LeakyReLU(0.01, inplace=True)


class DecoderV3Plus(nn.Module):
    """DeepLabv3+ decoder: ASPP at the output stride joined with low-level features at stride 4, and heads."""

    def __init__(self, low_channels: int, high_channels: int, config: NetworkConfig) -> None:
        super().__init__()
        width = config.decoder_channels
        self.aspp = (JointAspp if config.aspp == "joint" else Aspp)(high_channels, config)
        self.low_level = conv_bn_relu(low_channels, config.low_level_channels)
        self.fuse = _fuse(config)
        kaiming_normal(self)
        self.segment = _head(width, config.num_classes, config)
        self.separate_embedding = config.separate_embedding
        self.embed: nn.Sequential | None = None
        if config.embedding_channels:
            own = _fuse(config) if config.separate_embedding else ()
            self.embed = nn.Sequential(*own, *_head(width, config.embedding_channels, config))

    def forward(self, low: Tensor, high: Tensor) -> Output:
        """Return logits and embedding at stride 4.

        Args:
            low: (B, C, H/4, W/4) float.
            high: (B, C', h, w) float.
        """
        aspp = resize_logits(self.aspp(high), low.shape[-2:])
        joined = torch.cat([self.low_level(low), aspp], dim=1)
        features = self.fuse(joined)
        logits = self.segment(features)
        if self.embed is None:
            return Output(logits, None)
        return Output(logits, self.embed(joined if self.separate_embedding else features))


def _fuse(config: NetworkConfig) -> nn.Sequential:
    """Return the convolutions over low-level and ASPP features, at the decoder's width."""
    width = config.decoder_channels
    layers = [
        conv_bn_relu(width + config.low_level_channels, width, 3),
        _dropout(config.dropout.fuse_1, config),
        conv_bn_relu(width, width, 3),
        _dropout(config.dropout.fuse_2, config),
    ]
    return nn.Sequential(*layers, *([nn.Conv2d(width, width, 1)] if config.head == "mlp" else []))


def _head(in_channels: int, out_channels: int, config: NetworkConfig) -> nn.Sequential:
    if config.head == "mlp":
        return mlp_head(in_channels, out_channels)
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1))


class DecoderV2(nn.Module):
    """DeepLabv2 head: atrous 3x3 convolutions to the classes, summed, at the output stride."""

    def __init__(self, low_channels: int, high_channels: int, config: NetworkConfig) -> None:  # noqa: ARG002
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(high_channels, config.num_classes, 3, padding=rate, dilation=rate)
            for rate in config.rates
        )
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=0.01)  # type: ignore[arg-type]
        self.embed = mlp_head(high_channels, config.embedding_channels) if config.embedding_channels else None

    def forward(self, low: Tensor, high: Tensor) -> Output:  # noqa: ARG002 - one interface for both decoders
        """Return logits and embedding at the output stride.

        Args:
            low: not used.
            high: (B, C', h, w) float.
        """
        logits = torch.stack([branch(high) for branch in self.branches]).sum(dim=0)
        return Output(logits, None if self.embed is None else self.embed(high))


DECODERS: dict[str, type[DecoderV3Plus | DecoderV2]] = {
    "deeplabv3plus": DecoderV3Plus,
    "deeplabv2": DecoderV2,
}


class SegmentationNetwork(nn.Module):
    """An encoder and a decoder.

    Args:
        config: see `NetworkConfig`.
        pretrained: start the encoder from its ImageNet weights.
    """

    def __init__(self, config: NetworkConfig, *, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(
            config.encoder,
            output_stride=config.output_stride,
            pretrained=pretrained,
            multi_grid=config.multi_grid,
        )
        self.decoder = self.new_decoder()

    def new_decoder(self, *, embedding_channels: int | None = None) -> DecoderV3Plus | DecoderV2:
        """Return another, newly initialised decoder for this encoder, its embedding of another width."""
        config = self.config
        if embedding_channels is not None:
            config = config.model_copy(update={"embedding_channels": embedding_channels})
        return DECODERS[config.architecture](self.encoder.low_channels, self.encoder.high_channels, config)

    def forward(self, images: Tensor) -> Output:
        """Return logits and embedding at the decoder's resolution.

        Args:
            images: (B, 3, H, W) float, normalised.
        """
        output: Output = self.decoder(*self.encoder(images))
        return output


def _dropout(rate: float, config: NetworkConfig) -> nn.Module:
    return nn.Dropout2d(rate) if config.channel_dropout else nn.Dropout(rate)
