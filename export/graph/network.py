"""Exported graph: images in, uint8 masks out, with pre- and postprocessing inside.

Images have the element type that the model was trained on, uint8 by default. uint8 inputs and outputs are a
fraction of the bytes of float images and logits. TensorRT can only cast uint8: the cast to float is the first
operation, the cast to uint8 the last.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.models.decoders.decoder import resize_logits
from zoo.models.deployable import Deployable, Judging
from zoo.predictors.outputs import LOGITS, RELIABILITY, derive
from zoo.predictors.scores import own_reliability
from zoo.preprocess import normalize

if TYPE_CHECKING:
    from zoo.predictors.artifact import ArtifactMetadata, Precision

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
"""Data types of the network by precision; int8 files are quantized from fp32 ones."""


class ExportGraph(nn.Module):
    """Deployable that takes images as they are read and returns the outputs in the metadata.

    The network runs in the artifact's precision; normalization and the final resize run in float32.

    Args:
        deployable: model prepared by `zoo.export.graph.fold`; copied.
        metadata: preprocessing, precision and outputs of the artifact.
    """

    def __init__(self, deployable: Deployable, metadata: ArtifactMetadata) -> None:
        super().__init__()
        self.metadata = metadata
        self.dtype = DTYPES[metadata.precision]
        self.deployable = copy.deepcopy(deployable).to(self.dtype)
        if metadata.precision == "bf16":
            split_hard_swish(self.deployable)
        write_out_of_place(self.deployable)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs in the order of the metadata.

        Args:
            image: (B, H, W, C) images of the format of the preprocessing.
        """
        pixels = image.float().permute(0, 3, 1, 2)  # (B, C, H, W); float first for TensorRT
        images = normalize(pixels, self.metadata.preprocessing).to(self.dtype)
        names = [output.name for output in self.metadata.outputs]
        calibration, size = self.metadata.calibration, image.shape[1:3]
        if RELIABILITY not in names or calibration is None or calibration.is_from_logits:
            logits = resize_logits(self.deployable.decoder_logits(images).float(), size)
            return tuple(derive({LOGITS: logits}, names, calibration).values())
        assert isinstance(self.deployable, Judging)
        found, evidence = self.deployable.with_evidence(images)
        logits = resize_logits(found.float(), size)
        judged = self.deployable.judge(images, logits, evidence)
        given = {LOGITS: logits, RELIABILITY: own_reliability(judged, calibration)}
        return tuple(derive(given, names, calibration).values())


class HardSwish(nn.Module):
    """`nn.Hardswish` as two operators: TensorRT supports HardSwish only in fp32 and fp16."""

    def forward(self, features: Tensor) -> Tensor:
        """Return x * hardsigmoid(x).

        Args:
            features: float tensor of any shape.
        """
        return features * functional.hardsigmoid(features)


def write_out_of_place(model: nn.Module) -> None:
    """Let activations return new tensors: tracing those that overwrite their input takes twice as long."""
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]


def split_hard_swish(model: nn.Module) -> None:
    """Replace each `nn.Hardswish` in a model by `HardSwish`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Hardswish):
                setattr(module, name, HardSwish())
