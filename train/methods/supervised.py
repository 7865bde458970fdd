"""Labels-only baseline, with which every semi-supervised method is compared.

With `view = "strong"` labeled images get the augmentation that methods give to unlabeled ones: the
photometric strong view, and CutMix with the next image of the batch, including its labels. This separates
the effect of unlabeled images from that of augmentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from zoo.models.decoders.decoder import resize_logits
from zoo.models.deployable import Student
from zoo.models.segmentation import SegmentationNetwork
from zoo.train.blocks.losses import cross_entropy
from zoo.train.blocks.mixing import half_area_box, mixed
from zoo.train.method import Batch, Method, MethodConfig, Phase, Progress
from zoo.train.optim import OptimizerConfig

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from zoo.models.config import NetworkConfig


MIXED = 0.5
"""Probability that a labeled image gets a box of the next one, U2PL's of unlabeled images."""


class SupervisedConfig(MethodConfig):
    """Settings of the labels-only baseline."""

    name: Literal["supervised"] = "supervised"
    view: Literal["weak", "strong"] = "weak"
    optimizer: OptimizerConfig = OptimizerConfig()


class Supervised(Method):
    """Cross entropy on the labeled images."""

    def __init__(self, config: SupervisedConfig, network: NetworkConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.config = config
        self.student = SegmentationNetwork(network, pretrained=pretrained)

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the term `sup`."""
        image, label = batch.image_l, batch.label_l
        if self.config.view == "strong":
            box = half_area_box(batch.labeled_draws, image.shape[-2:], MIXED)
            image, label = mixed(image, box), mixed(label, box)
        logits = self.student(image).logits
        return {"sup": cross_entropy(resize_logits(logits, label.shape[-2:]), label)}

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """Return one phase, without unlabeled images."""
        return (Phase("train", steps, unlabeled=0, strong_labeled=self.config.view == "strong"),)

    def optimizers(self) -> list[Optimizer]:
        """Return one optimizer, with a separate learning rate for the encoder."""
        optimizer = self.config.optimizer
        return [optimizer.build(optimizer.groups(self.student))]

    def deployable(self, weights: str | None = None) -> Student:
        """Return a copy of the network."""
        return Student(self.copy_of(weights))
