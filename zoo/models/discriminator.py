"""Discriminators of (prediction, image) pairs: s4GAN's (Mittal et al., TPAMI 2019) and RRN's, by region."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import RecipeError
from zoo.frozen import Frozen
from zoo.models.decoders.decoder import resize_logits

SMALLEST = 32
"""Smallest height and width in pixels, below which the last convolutions have no input."""


class DiscriminatorConfig(Frozen):
    """Everything needed to rebuild a discriminator without its weights.

    Args:
        level: unit that is scored: the `image` (s4GAN), each `patch` of the feature map (RRN, section II-B),
            or each `pixel`, interpolated from cells of 32 pixels (RRN's older variant).
        width: channels of the first convolution; each of the next three doubles them, up to 512.
        cell: height and width of a patch on the feature map, which has a sixteenth of the image's size; a
            smaller feature map is one patch.
        dropout: rate of channel dropout after each convolution but the fourth.
    """

    level: Literal["image", "patch", "pixel"] = "patch"
    width: int = Field(64, ge=1)
    cell: int = Field(10, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)


class DiscriminatorOutput(NamedTuple):
    """Output of a discriminator."""

    score: Tensor
    """(B, h, w) logits of being real: one for the image (1 x 1), for each patch, or for each pixel."""
    features: Tensor
    """(B, D) mean of the last features, for feature matching; D is 8 times the config's width."""
    weight: Tensor
    """(B, h, w) share of each score's pixels that are not padding."""


class Discriminator(nn.Module):
    """Distinguishes predictions from labels; it has no normalization layers.

    Args:
        num_classes: number of classes K.
        config: configuration of the discriminator.
        in_channels: number of channels C of the images.
    """

    def __init__(self, num_classes: int, config: DiscriminatorConfig, in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        channels = [num_classes + in_channels, *(config.width * factor for factor in (1, 2, 4, 8))]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
            if after != channels[-1]:
                layers.append(nn.Dropout2d(config.dropout))
        self.body = nn.Sequential(*layers)
        last = channels[-1]
        self.head = {
            "image": nn.Conv2d(last, 1, 1),
            "patch": nn.Conv2d(last, 1, config.cell, stride=config.cell),
            "pixel": nn.Conv2d(last, 1, 4, stride=2, padding=1),
        }[config.level]

    def forward(self, pairs: Tensor, valid: Tensor | None = None) -> DiscriminatorOutput:
        """Return the logits of being real and the features of each pair; means exclude padding.

        Args:
            pairs: (B, K + C, H, W) float, class probabilities or one-hot labels, then the image.
            valid: (B, H, W) bool, False in padding; None without padding.

        Raises:
            RecipeError: images are smaller than `SMALLEST`.
        """
        size = pairs.shape[-2:]
        if min(size) < SMALLEST:
            raise RecipeError(
                f"data.imgsz is {list(size)}, expected at least {SMALLEST} pixels each way for a "
                f"discriminator: enlarge it"
            )
        inside = torch.ones_like(pairs[:, :1]) if valid is None else valid.unsqueeze(1).to(pairs.dtype)
        grid = self.body(pairs)  # (B, D, H / 16, W / 16)
        share = F.adaptive_avg_pool2d(inside, grid.shape[-2:]).to(grid.dtype)
        features = (grid * share).sum(dim=(2, 3)) / share.sum(dim=(2, 3)).clamp(min=1e-6)
        if self.config.level == "image":
            score = self.head(features[:, :, None, None])
            weight = torch.ones_like(score)
        elif self.config.level == "patch":
            score = self.head(self._at_least_one_patch(grid))
            weight = F.avg_pool2d(self._at_least_one_patch(share), self.config.cell)
        else:
            score, weight = resize_logits(self.head(grid), size), inside
        return DiscriminatorOutput(score.squeeze(1), features, weight.squeeze(1))

    def _at_least_one_patch(self, grid: Tensor) -> Tensor:
        """Return the feature map, zero-padded to at least one patch."""
        height, width = (max(0, self.config.cell - length) for length in grid.shape[-2:])
        return F.pad(grid, (0, width, 0, height))


def pair(scores: Tensor, images: Tensor, valid: Tensor) -> Tensor:
    """Return a discriminator's input, (B, K + C, H, W), zero in padding for real and fake pairs alike.

    Args:
        scores: (B, K, H, W) float in [0, 1], probabilities or one-hot labels.
        images: (B, C, H, W) float in [0, 1].
        valid: (B, H, W) bool, False in padding.
    """
    return torch.cat([scores, images], dim=1).where(valid.unsqueeze(1), 0)
