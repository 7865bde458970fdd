"""Decoder of DeepLabv3+ (Chen et al., ECCV 2018): ASPP combined with features at stride 4."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zoo.errors import RecipeError
from zoo.models.decoders.decoder import (
    Decoder,
    Output,
    conv_bn_relu,
    kaiming_normal,
    mlp_head,
    resize_logits,
)

if TYPE_CHECKING:
    from zoo.models.config import DeepLabV3PlusConfig
    from zoo.models.encoder import Encoder

LOW_LEVEL_STRIDE = 4


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, atrous 3x3 and image-level branches, concatenated and reduced.

    The image-level branch has no BatchNorm in the `projected` style, which can therefore train with a batch
    of one.
    """

    def __init__(self, in_channels: int, config: DeepLabV3PlusConfig) -> None:
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
    """Atrous spatial pyramid pooling of CPS and RRN: one BatchNorm, and an added image-level branch."""

    def __init__(self, in_channels: int, config: DeepLabV3PlusConfig) -> None:
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


class DeepLabV3Plus(Decoder):
    """ASPP on the encoder's last features, combined with those at stride 4, and heads."""

    def __init__(
        self, encoder: Encoder, config: DeepLabV3PlusConfig, *, num_classes: int, embedding_channels: int = 0
    ) -> None:
        super().__init__(encoder, config, num_classes=num_classes)
        width, strides = config.decoder_channels, encoder.strides
        if LOW_LEVEL_STRIDE not in strides:
            raise RecipeError(
                f"deeplabv3plus needs features at stride {LOW_LEVEL_STRIDE}, got an encoder with strides "
                f"{', '.join(map(str, strides))}: use one such as resnet50, convnext_tiny or pvt_v2_b0, or "
                f"network.decoder.name=dpt for a plain transformer, or deeplabv2, which needs only the last "
                f"features"
            )
        self.low_index = strides.index(LOW_LEVEL_STRIDE)
        self.aspp = (JointAspp if config.aspp == "joint" else Aspp)(encoder.channels[-1], config)
        self.low_level = conv_bn_relu(encoder.channels[self.low_index], config.low_level_channels)
        self.fuse = _fuse(config)
        kaiming_normal(self)
        self.segment = _head(width, num_classes, config)
        self.separate_embedding = config.separate_embedding
        if embedding_channels:
            own = _fuse(config) if config.separate_embedding else ()
            self.embed = nn.Sequential(*own, *_head(width, embedding_channels, config))

    def forward(self, features: list[Tensor]) -> Output:
        """Return logits and embedding at stride 4.

        Args:
            features: features of the encoder, each (B, C, h, w) float; those at stride 4 and the last are
                used.
        """
        low, high = features[self.low_index], features[-1]
        aspp = resize_logits(self.aspp(high), low.shape[-2:])
        joined = torch.cat([self.low_level(low), aspp], dim=1)
        fused = self.fuse(joined)
        logits = self.segment(fused)
        if self.embed is None:
            return Output(logits, None)
        return Output(logits, self.embed(joined if self.separate_embedding else fused))


def _fuse(config: DeepLabV3PlusConfig) -> nn.Sequential:
    """Return the convolutions on low-level and ASPP features, with the decoder's width."""
    width = config.decoder_channels
    layers = [
        conv_bn_relu(width + config.low_level_channels, width, 3),
        _dropout(config.dropout.fuse_1, config),
        conv_bn_relu(width, width, 3),
        _dropout(config.dropout.fuse_2, config),
    ]
    return nn.Sequential(*layers, *([nn.Conv2d(width, width, 1)] if config.head == "mlp" else []))


def _head(in_channels: int, out_channels: int, config: DeepLabV3PlusConfig) -> nn.Sequential:
    if config.head == "mlp":
        return mlp_head(in_channels, out_channels)
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1))


def _dropout(rate: float, config: DeepLabV3PlusConfig) -> nn.Module:
    return nn.Dropout2d(rate) if config.channel_dropout else nn.Dropout(rate)
