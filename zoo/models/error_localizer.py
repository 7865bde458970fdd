"""Error localization network of ELN (Kwon & Kwak, CVPR 2022, sections 3.1 and 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from zoo.models.config import DeepLabV2Config, DeepLabV3PlusConfig
from zoo.models.decoders.decoder import entropy, mlp_head
from zoo.models.decoders.deeplabv3plus import DeepLabV3Plus
from zoo.models.encoder import TimmEncoder, build_encoder, renew_first_conv

if TYPE_CHECKING:
    from zoo.models.config import DecoderConfig, NetworkConfig


class ErrorLocalizer(nn.Module):
    """Predicts for each pixel whether a prediction is right, from image, entropy and class scores.

    It consists of an encoder with C + 1 + K input channels and a DeepLabv3+ decoder with `outputs` channels.

    Args:
        encoder: name of a timm model; ResNet-34 in the paper.
        network: configuration of the segmentation network, whose widths the decoder uses.
        pretrained: whether to use ImageNet weights for all layers except the first convolution, which is new.
        outputs: 1 for ELN's logit of "this prediction is right"; K for s-ECN, which corrects it.
    """

    ASPP_DROPOUT = 0.5

    def __init__(self, encoder: str, network: NetworkConfig, *, pretrained: bool, outputs: int = 1) -> None:
        super().__init__()
        self.encoder = build_encoder(
            encoder,
            output_stride=16,
            pretrained=pretrained,
            in_channels=network.in_channels + 1 + network.num_classes,
        )
        if isinstance(self.encoder, TimmEncoder):
            renew_first_conv(self.encoder.body)
        config = _decoder_like(network.decoder)
        self.decoder = DeepLabV3Plus(self.encoder, config, num_classes=network.num_classes)
        self.decoder.segment = mlp_head(config.decoder_channels, outputs)

    def forward(self, images: Tensor, entropy: Tensor, scores: Tensor) -> Tensor:
        """Return (B, outputs, h, w) logits at stride 4.

        Args:
            images: (B, C, H, W) float, normalized.
            entropy: (B, 1, H, W) float, entropy of the prediction in nats.
            scores: (B, K, H, W) float, logits or probabilities of the prediction.
        """
        features = self.encoder(torch.cat([images, entropy, scores], dim=1))
        logits: Tensor = self.decoder(features).logits
        return logits

    def judge(self, images: Tensor, logits: Tensor, scores: Literal["logits", "probabilities"]) -> Tensor:
        """Return (B, outputs, h, w) logits for a prediction, at stride 4 (Eq. 4).

        Args:
            images: (B, 3, H, W) float, normalized.
            logits: (B, K, H, W) float, logits of the prediction.
            scores: form of the prediction in the input.
        """
        given = logits if scores == "logits" else logits.softmax(dim=1)
        judged: Tensor = self(images, entropy(logits).to(images.dtype), given.to(images.dtype))
        return judged


def _decoder_like(student: DecoderConfig) -> DeepLabV3PlusConfig:
    """Return the settings of the localizer's decoder, with widths, rates and dropout of the student's."""
    if not isinstance(student, DeepLabV3PlusConfig):
        rates = {"rates": student.rates} if isinstance(student, DeepLabV2Config) else {}
        student = DeepLabV3PlusConfig(decoder_channels=student.decoder_channels, **rates)
    dropout = student.dropout.model_copy(update={"aspp": ErrorLocalizer.ASPP_DROPOUT})
    style = {"aspp": "projected", "head": "mlp", "channel_dropout": False}
    return student.model_copy(update={"dropout": dropout, **style})
