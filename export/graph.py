"""What is exported: a uint8 image in, a mask out, everything between in one graph.

uint8 in and out moves a fraction of the bytes of float images and logits. TensorRT can only cast uint8: the
cast to float is the first operation, the cast to uint8 the last.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.models.decoders.decoder import resize_logits
from zoo.predictors.outputs import LOGITS, derive
from zoo.preprocess import normalize

if TYPE_CHECKING:
    from zoo.models.deployable import Deployable
    from zoo.predictors.artifact import ArtifactMetadata, Precision

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
"""Of the network; an int8 file is made from an fp32 one."""


class ExportGraph(nn.Module):
    """A deployable between uint8 images and what the metadata ask for.

    The network runs in the artifact's precision; normalisation and the resize to full size in float32.

    Args:
        deployable: of `zoo.export.fold`; copied.
        metadata: its preprocessing, precision and output.
    """

    def __init__(self, deployable: Deployable, metadata: ArtifactMetadata) -> None:
        super().__init__()
        self.metadata = metadata
        self.dtype = DTYPES[metadata.precision]
        self.deployable = copy.deepcopy(deployable).to(self.dtype)
        if metadata.precision == "bf16":
            split_hard_swish(self.deployable)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the metadata, in their order.

        Args:
            image: (B, H, W, 3) uint8 RGB.
        """
        pixels = image.float().permute(0, 3, 1, 2)  # (B, 3, H, W); float first, or TensorRT refuses it
        images = normalize(pixels, self.metadata.preprocessing).to(self.dtype)
        logits = resize_logits(self.deployable.decoder_logits(images).float(), image.shape[1:3])
        names = [output.name for output in self.metadata.outputs]
        return tuple(derive({LOGITS: logits}, names).values())


class HardSwish(nn.Module):
    """`nn.Hardswish` by two operators: TensorRT takes the one only in fp32 and fp16."""

    def forward(self, features: Tensor) -> Tensor:
        """Return x * hardsigmoid(x).

        Args:
            features: of any shape, float.
        """
        return features * functional.hardsigmoid(features)


def split_hard_swish(model: nn.Module) -> None:
    """Replace each `nn.Hardswish` in a model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Hardswish):
                setattr(module, name, HardSwish())
