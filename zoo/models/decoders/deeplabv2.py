"""Decoder of DeepLabv2 (Chen et al., TPAMI 2017): a sum of atrous convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zoo.models.decoders.decoder import Decoder, Output, mlp_head

if TYPE_CHECKING:
    from zoo.models.config import DeepLabV2Config
    from zoo.models.encoder import Encoder


class DeepLabV2(Decoder):
    """Sum of atrous 3x3 convolutions on the encoder's last features, at their stride."""

    def __init__(
        self, encoder: Encoder, config: DeepLabV2Config, *, num_classes: int, embedding_channels: int = 0
    ) -> None:
        super().__init__(encoder, config, num_classes=num_classes)
        channels = encoder.channels[-1]
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, num_classes, 3, padding=rate, dilation=rate) for rate in config.rates
        )
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=0.01)  # type: ignore[arg-type]
        if embedding_channels:
            self.embed = mlp_head(channels, embedding_channels)

    def forward(self, features: list[Tensor]) -> Output:
        """Return logits and embedding at the stride of the last features.

        Args:
            features: features of the encoder, each (B, C, h, w) float, of which the last are used.
        """
        high = features[-1]
        logits = torch.stack([branch(high) for branch in self.branches]).sum(dim=0)
        return Output(logits, None if self.embed is None else self.embed(high))
