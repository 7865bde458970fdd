"""Segmentation networks, which consist of an encoder and a decoder.

The two parts are separate modules, so that a method can run several decoders on one encoder pass (ELN's
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


def segmentation_networks(module: nn.Module) -> dict[str, SegmentationNetwork]:
    """Return the segmentation networks in a module, by name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, SegmentationNetwork)}


class SegmentationNetwork(nn.Module):
    """An encoder and a decoder.

    Args:
        config: configuration of the network.
        pretrained: whether the encoder starts from pretrained weights.
    """

    def __init__(self, config: NetworkConfig, *, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(
            config.encoder,
            output_stride=config.output_stride,
            pretrained=pretrained and not WITHOUT_PRETRAINED.get(),
            in_channels=config.in_channels,
            multi_grid=config.multi_grid,
            size=config.encoder_size,
        )
        self.decoder = self.new_decoder()
        self.encoder_is_frozen = False

    def new_decoder(
        self, *, num_classes: int | None = None, embedding_channels: int | None = None
    ) -> Decoder:
        """Return a newly initialized decoder for this encoder, optionally of other widths."""
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

    @property
    def is_trained(self) -> bool:
        """Return whether any parameter has a gradient; a mean teacher has none."""
        return any(parameter.requires_grad for parameter in self.parameters())

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
            images: (B, C, H, W) float, normalized; any size.
        """
        output: Output = self.decoder(self.encoder(images))
        return output
