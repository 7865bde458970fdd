"""Segmentation networks: an encoder and a decoder.

The two parts are separate modules, so that a method can run one encoder pass under several decoders (ELN's
auxiliary decoders).
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Self

from torch import Tensor, nn

from zoo.models.config import DECODERS
from zoo.models.encoder import WITHOUT_PRETRAINED, build_encoder

if TYPE_CHECKING:
    from zoo.models.config import NetworkConfig
    from zoo.models.decoders.decoder import Decoder, Output


class SegmentationNetwork(nn.Module):
    """An encoder and a decoder.

    Args:
        config: see `NetworkConfig`.
        pretrained: start the encoder from its pretrained weights.
    """

    def __init__(self, config: NetworkConfig, *, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(
            config.encoder,
            output_stride=config.output_stride,
            pretrained=pretrained and not WITHOUT_PRETRAINED.get(),
            multi_grid=config.multi_grid,
        )
        self.decoder = self.new_decoder()
        self.encoder_is_frozen = False

    def new_decoder(
        self, *, num_classes: int | None = None, embedding_channels: int | None = None
    ) -> Decoder:
        """Return another, newly initialized decoder for this encoder, by argument of other sizes."""
        config = self.config
        decoder: Decoder = pkgutil.resolve_name(DECODERS[config.decoder.name].module)(
            self.encoder,
            config.decoder,
            num_classes=config.num_classes if num_classes is None else num_classes,
            embedding_channels=config.embedding_channels
            if embedding_channels is None
            else embedding_channels,
        )
        return decoder

    def freeze_encoder(self) -> None:
        """Keep the encoder as it is in training: its weights, its BatchNorm statistics, without dropout."""
        self.encoder_is_frozen = True
        self.encoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.encoder_is_frozen:
            self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> Output:
        """Return logits and embedding at the decoder's resolution.

        Args:
            images: (B, 3, H, W) float, normalized; any size.
        """
        output: Output = self.decoder(self.encoder(images))
        return output
