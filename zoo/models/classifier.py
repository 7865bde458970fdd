"""Multi-label image classifier, the network of MLMT (Mittal et al., TPAMI 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.models.encoder import WITHOUT_PRETRAINED, pretrained_origin
from zoo.models.timm_models import create_timm, has_fixed_size

if TYPE_CHECKING:
    from zoo.models.config import ClassifierConfig


class ImageClassifier(nn.Module):
    """A timm network with one logit for each class, which resizes images to its own input size.

    Args:
        config: configuration of the classifier.
        pretrained: whether to start from ImageNet weights, with a new last layer.
    """

    def __init__(self, config: ClassifierConfig, *, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        pretrained = pretrained and not WITHOUT_PRETRAINED.get()
        size: dict[str, Any] = {"img_size": config.imgsz} if has_fixed_size(config.encoder) else {}
        self.body = create_timm(
            config.encoder,
            pretrained=pretrained,
            num_classes=config.num_classes,
            in_chans=config.in_channels,
            **size,
        )
        self.origin = pretrained_origin(config.encoder) if pretrained else None

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K) logits.

        Args:
            images: (B, C, H, W) float, normalized; any size.
        """
        if images.shape[-2:] != self.config.imgsz:
            images = F.interpolate(images, size=self.config.imgsz, mode="bilinear", align_corners=False)
        logits: Tensor = self.body(images)
        return logits

    def renew_head(self) -> None:
        """Replace the last layer by a newly initialized one."""
        head: Any = self.body  # all of timm's networks have it; module attributes have no type
        head.reset_classifier(self.config.num_classes)

    def prob(self, logits: Tensor) -> Tensor:
        """Return the probability that each class is present in the image, (B, K).

        Args:
            logits: (B, K) float.
        """
        return logits.sigmoid() if self.config.activation == "sigmoid" else logits.softmax(dim=1)
