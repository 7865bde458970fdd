"""Base class of decoders, and the layers that they share."""

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
    """Output of a decoder."""

    logits: Tensor
    """(B, K, h, w) class scores at the decoder's resolution."""
    embedding: Tensor | None
    """(B, D, h, w) pixel embedding, not normalized; None without an embedding head."""


class Decoder(nn.Module, ABC):
    """The part of a segmentation network after the encoder; `zoo.models.config.DECODERS` lists them.

    All decoders take these arguments, and have their embedding head, which is dropped after training, in
    `embed`.

    Args:
        encoder: encoder whose `channels` and `strides` describe the features; it is not stored.
        config: settings of the decoder.
        num_classes: number of classes K.
        embedding_channels: channels D of the pixel embedding; 0 for no embedding.

    Raises:
        RecipeError: the encoder lacks features that the decoder needs.
    """

    embed: nn.Module | None
    """The embedding head; None if there is none."""

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
            features: features of the encoder, each (B, C, h, w) float, fine to coarse.
        """


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the predicted distribution, (B, 1, H, W), in nats.

    Args:
        logits: (B, K, H, W) float.
    """
    log_prob = F.log_softmax(logits, dim=1)
    return -(log_prob.exp() * log_prob).sum(dim=1, keepdim=True)


def resize_logits(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Return logits resized to (height, width) `size`, bilinear with aligned corners, as in all methods."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a bias-free convolution that preserves the size, followed by BatchNorm and ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def mlp_head(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return two 1x1 convolutions with a ReLU between them: ELN's *Seg* and *Proj* (paper, section 4.1)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 1), nn.ReLU(inplace=True), nn.Conv2d(in_channels, out_channels, 1)
    )


def kaiming_normal(module: nn.Module) -> None:
    """Initialize convolutions Kaiming-normal (fan-in, ReLU), and BatchNorm with 1 and 0."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_in", nonlinearity="relu")
            if child.bias is not None:
                torch.nn.init.zeros_(child.bias)
        elif isinstance(child, nn.BatchNorm2d):
            nn.init.ones_(child.weight)
            nn.init.zeros_(child.bias)
