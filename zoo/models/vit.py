"""Plain vision transformers of timm as encoders: one resolution from the first block to the last."""

from __future__ import annotations

from typing import Any

from timm.models import is_model_in_modules
from torch import Tensor, nn

PLAIN_MODULES = ("vision_transformer", "deit", "eva", "vision_transformer_hybrid", "xcit")
"""timm's modules of plain transformers that take images of any size.

They hold ViT, DeiT, EVA-02, DINOv2, DINOv3, SigLIP, CLIP, MAE, hybrids of a ResNet and a ViT, and XCiT.
"""

DEPTHS = 4
"""Features are taken after this many equal shares of the blocks."""


def is_plain_transformer(name: str) -> bool:
    """Return whether a model of timm is a plain transformer that takes images of any size."""
    return is_model_in_modules(name, PLAIN_MODULES)


class TokenMaps(nn.Module):
    """A plain transformer that returns the tokens of `DEPTHS` of its blocks as maps.

    The last block is one of them. The model's final norm is applied to each, as DINOv2 does it; class and
    register tokens are left out.

    Args:
        model: of timm, of `PLAIN_MODULES`; taken over, without its head.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        timm_model: Any = model  # the type of a module's attribute is not known
        count = len(timm_model.blocks)
        self.indices = [count * share // DEPTHS - 1 for share in range(1, DEPTHS + 1)]
        timm_model.prune_intermediate_layers(self.indices, prune_norm=False)
        self.model = timm_model
        info = [timm_model.feature_info[index] for index in self.indices]
        self.channels: tuple[int, ...] = tuple(each["num_chs"] for each in info)
        self.strides: tuple[int, ...] = tuple(each["reduction"] for each in info)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return (B, C, h, w) maps, of the first depth to the last.

        Args:
            images: (B, in_channels, H, W) float, H and W multiples of the size of a patch.
        """
        maps: list[Tensor] = self.model.forward_intermediates(
            images, indices=self.indices, norm=True, intermediates_only=True
        )
        return maps
