"""What every decoder is, and the layers that several of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from zoo.models.config import DecoderConfig
    from zoo.models.encoder import Encoder


class Output(NamedTuple):
    """What a decoder returns."""

    logits: Tensor
    """(B, K, h, w) class scores at the decoder's resolution."""
    embedding: Tensor | None
    """(B, D, h, w) pixel embedding, not normalized; None without an embedding head."""


class Decoder(nn.Module, ABC):
    """The part of a segmentation network after the encoder; `zoo.models.config.DECODERS` lists them.

    Decoders are constructed with these arguments and name their embedding head `embed`, which is dropped
    after training.

    Args:
        encoder: its `channels` and `strides` say what `forward` is called with; it is not kept.
        config: the decoder's own settings.
        num_classes: K.
        embedding_channels: D of the pixel embedding; 0 for a decoder without one.

    Raises:
        RecipeError: the encoder has no features that the decoder can use.
    """

    embed: nn.Module | None
    """The embedding head; None for a decoder without one."""

    @abstractmethod
    def __init__(
        self, encoder: Encoder, config: DecoderConfig, *, num_classes: int, embedding_channels: int = 0
    ) -> None:
        super().__init__()
        self.embed = None

    @abstractmethod
    def forward(self, features: list[Tensor]) -> Output:
        """Return logits and embedding at the decoder's resolution.

        Args:
            features: (B, C, h, w) float each, of the encoder, fine to coarse.
        """


def resize_logits(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Return logits at (height, width) `size`, bilinear with aligned corners as the methods' authors do."""
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
