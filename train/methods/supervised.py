"""Labels-only baseline, with which every semi-supervised method is compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from zoo.models.decoders.decoder import resize_logits
from zoo.models.deployable import Student
from zoo.models.segmentation import SegmentationNetwork
from zoo.train.blocks.label_loss import LabelLoss
from zoo.train.method import Batch, Method, MethodConfig, Phase, Progress
from zoo.train.optim import OptimizerConfig

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from zoo.models.config import NetworkConfig


class SupervisedConfig(MethodConfig):
    """Settings of the labels-only baseline."""

    name: Literal["supervised"] = "supervised"
    optimizer: OptimizerConfig = OptimizerConfig()


class Supervised(Method):
    """Cross entropy on the labeled images."""

    def __init__(self, config: SupervisedConfig, network: NetworkConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.config = config
        self.label_loss = LabelLoss()
        self.student = SegmentationNetwork(network, pretrained=pretrained)

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the term `sup`."""
        logits = self.student(batch.image_l).logits
        return {"sup": self.label_loss(resize_logits(logits, batch.label_l.shape[-2:]), batch.label_l)}

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """Return one phase, without unlabeled images."""
        return (Phase("train", steps, unlabeled=0),)

    def optimizers(self) -> list[Optimizer]:
        """Return one optimizer, with a separate learning rate for the encoder."""
        optimizer = self.config.optimizer
        return [optimizer.build(optimizer.groups(self.student))]

    def deployable(self, weights: str | None = None) -> Student:
        """Return a copy of the network."""
        return Student(self.copy_of(weights))
