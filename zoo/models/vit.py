"""Plain vision transformers of timm as encoders, which have one resolution throughout."""

from __future__ import annotations

from typing import Any

from timm.models import is_model_in_modules
from torch import Tensor, nn

ANY_SIZE = ("vision_transformer", "deit", "eva", "vision_transformer_hybrid", "xcit")
"""timm's modules of plain transformers that accept images of any size.

They contain ViT, DeiT, EVA-02, DINOv2, DINOv3, SigLIP, CLIP, MAE, hybrids of a ResNet and a ViT, and XCiT.
"""

ONE_SIZE = ("beit", "cait", "convit", "mlp_mixer", "tnt", "vision_transformer_relpos")
"""timm's modules of plain transformers (and MLP-Mixer) that are built for images of one size."""

DEPTHS = 4
"""Number of depths, at equal distances, from which features are taken."""


def is_plain_transformer(name: str) -> bool:
    """Return whether a timm model is a plain transformer."""
    return is_model_in_modules(name, (*ANY_SIZE, *ONE_SIZE))


class TokenMaps(nn.Module):
    """Plain transformer that returns the patch tokens of `DEPTHS` blocks, the last too, as feature maps.

    As in DINOv2, the model's final norm is applied to each. Class and register tokens are left out.

    Args:
        model: timm model from `ANY_SIZE` or `ONE_SIZE`, which is modified.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        timm_model: Any = model  # module attributes have no type
        count = len(timm_model.blocks)
        self.indices = [count * share // DEPTHS - 1 for share in range(1, DEPTHS + 1)]
        timm_model.prune_intermediate_layers(self.indices, prune_norm=False)
        self.model = timm_model
        info = [timm_model.feature_info[index] for index in self.indices]
        self.channels: tuple[int, ...] = tuple(each["num_chs"] for each in info)
        self.strides: tuple[int, ...] = tuple(each["reduction"] for each in info)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return (B, C, h, w) feature maps, from the first depth to the last.

        Args:
            images: (B, in_channels, H, W) float, H and W multiples of the patch size.
        """
        maps: list[Tensor] = self.model.forward_intermediates(
            images, indices=self.indices, norm=True, intermediates_only=True
        )
        return maps
