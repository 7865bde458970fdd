"""Multi-label image classification, MLMT's network (Mittal et al., TPAMI 2019): which classes are seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.models.encoder import WITHOUT_PRETRAINED, create_timm, pretrained_origin

if TYPE_CHECKING:
    from zoo.models.config import ClassifierConfig


class ImageClassifier(nn.Module):
    """A timm network with one logit for each class, at a size of its own.

    Args:
        config: see `ClassifierConfig`.
        pretrained: start from ImageNet weights, under a new last layer.
    """

    def __init__(self, config: ClassifierConfig, *, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        pretrained = pretrained and not WITHOUT_PRETRAINED.get()
        self.body = create_timm(config.encoder, pretrained=pretrained, num_classes=config.num_classes)
        self.origin = pretrained_origin(config.encoder) if pretrained else None

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K) logits.

        Args:
            images: (B, 3, H, W) float, normalised; any size.
        """
        if images.shape[-2:] != self.config.imgsz:
            images = F.interpolate(images, size=self.config.imgsz, mode="bilinear", align_corners=False)
        logits: Tensor = self.body(images)
        return logits

    def renew_head(self) -> None:
        """Draw the last layer anew."""
        head: Any = self.body  # timm's networks all have it; the type of a module's attribute is not known
        head.reset_classifier(self.config.num_classes)

    def prob(self, logits: Tensor) -> Tensor:
        """Return the probability of each class being in the image, (B, K).

        Args:
            logits: (B, K) float.
        """
        return logits.sigmoid() if self.config.activation == "sigmoid" else logits.softmax(dim=1)
