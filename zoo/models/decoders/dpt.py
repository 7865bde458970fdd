"""DPT (Ranftl et al., ICCV 2021): features of four depths, reassembled as a pyramid and fused coarse to fine.

Deviations from the paper: class and register tokens are not used (its *ignore* readout); encoders that have a
pyramid of their own are not resampled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import RecipeError
from zoo.models.decoders.decoder import Decoder, Output, conv_bn_relu

if TYPE_CHECKING:
    from zoo.models.config import DptConfig
    from zoo.models.encoder import Encoder

LEVELS = 4
SCALES = (4, 2, 1, 0.5)
"""Sizes of the pyramid's levels, relative to the features of a plain transformer."""


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions with BatchNorm, each after a ReLU, and a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.body = nn.Sequential(nn.ReLU(), conv_bn_relu(width, width, 3), conv, nn.BatchNorm2d(width))

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape.

        Args:
            features: (B, D, h, w) float.
        """
        refined: Tensor = features + self.body(features)
        return refined


class Fusion(nn.Module):
    """Adds a level to the fused coarser levels, refines the sum and resizes it."""

    def __init__(self, width: int, *, is_coarsest: bool) -> None:
        super().__init__()
        self.lateral = None if is_coarsest else ResidualUnit(width)
        self.refine = ResidualUnit(width)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, level: Tensor, coarser: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Return (B, D, *size) features.

        Args:
            level: (B, D, h, w) float.
            coarser: (B, D, h, w) float, fused coarser levels; None for the coarsest level.
            size: height and width of the next finer level.
        """
        if self.lateral is not None and coarser is not None:
            level = coarser + self.lateral(level)
        resized = F.interpolate(self.refine(level), size=size, mode="bilinear", align_corners=True)
        fused: Tensor = self.project(resized)
        return fused


class Dpt(Decoder):
    """Four levels fused coarse to fine; logits at twice the size of the finest level."""

    def __init__(
        self, encoder: Encoder, config: DptConfig, *, num_classes: int, embedding_channels: int = 0
    ) -> None:
        super().__init__(encoder, config, num_classes=num_classes)
        strides, width = encoder.strides[-LEVELS:], config.decoder_channels
        if len(strides) < LEVELS:
            raise RecipeError(
                f"dpt needs {LEVELS} features, got an encoder with {len(strides)}: use another encoder, or "
                f"network.decoder.name=deeplabv2, which needs only the last"
            )
        scales = SCALES if len(set(strides)) == 1 else (1,) * LEVELS
        channels = zip(encoder.channels[-LEVELS:], config.reassemble_channels, scales, strict=True)
        self.reassemble = nn.ModuleList(
            nn.Sequential(*_resample(inside, outside, scale), _conv3(outside, width))
            for inside, outside, scale in channels
        )
        self.fusions = nn.ModuleList(Fusion(width, is_coarsest=i == LEVELS - 1) for i in range(LEVELS))
        self.segment = _head(width, num_classes, config)
        if embedding_channels:
            self.embed = _head(width, embedding_channels, config)

    def forward(self, features: list[Tensor]) -> Output:
        """Return logits and embedding at twice the size of the finest level.

        Args:
            features: (B, C, h, w) float each; the last four are used.
        """
        levels = [
            reassemble(each) for reassemble, each in zip(self.reassemble, features[-LEVELS:], strict=True)
        ]
        height, width = levels[0].shape[-2:]
        sizes = [(2 * height, 2 * width), *(level.shape[-2:] for level in levels[:-1])]
        fused = None
        for fusion, level, size in reversed(list(zip(self.fusions, levels, sizes, strict=True))):
            fused = fusion(level, fused, size)
        return Output(self.segment(fused), None if self.embed is None else self.embed(fused))


def _resample(in_channels: int, out_channels: int, scale: float) -> list[nn.Module]:
    """Return a projection to `out_channels`, and a layer that resizes by a whole multiple or to half."""
    project: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, 1)]
    if scale == 1:
        return project
    if scale < 1:
        return [*project, nn.Conv2d(out_channels, out_channels, 3, stride=round(1 / scale), padding=1)]
    return [*project, nn.ConvTranspose2d(out_channels, out_channels, int(scale), stride=int(scale))]


def _conv3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)


def _head(width: int, out_channels: int, config: DptConfig) -> nn.Sequential:
    return nn.Sequential(
        conv_bn_relu(width, width, 3), nn.Dropout(config.head_dropout), nn.Conv2d(width, out_channels, 1)
    )
