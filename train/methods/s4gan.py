"""s4GAN: Semi-Supervised Semantic Segmentation with High- and Low-level Consistency (Mittal et al., TPAMI).

https://arxiv.org/abs/1908.05724, code: sud0301/semisup-semseg. The segmentation network is the generator of a
conditional GAN: a discriminator tells its predictions on unlabeled images from the labels of labeled ones.
Its features pull the predictions towards labels, and its score picks the images good enough for
self-training, which in turn keeps it from winning. (The paper's other branch, MLMT, is a method of its own.)

Symbols: S segmentation network, D discriminator, gamma `threshold`, y* the classes of a prediction.

Departures from the authors' code; the preset `official` undoes those that name a setting:
- the encoder learns at the paper's rate; the code lists its weights several times, so that they move some
  three times as far (`optimizer.encoder_lr_mult`). Recipes of DeepLabv2 have all four dilations, of which the
  code uses two (`network.decoder.rates`).
- a discriminator sees images in their own range, not in that of the batch (`image_norm`), and real ones not
  in that of the unlabeled batch.
- its features are the mean over the image, whatever its size.
- padded pixels of unlabeled images take no part in L_st.

As the code, against the paper: losses are means over pixels; an image is selected by D > gamma, none in the
first step of a run; no dropout after the fourth convolution (`discriminator.dropout_last`); real pairs come
from a stream of their own (`real_stream`).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from zoo.models.decoders.decoder import resize_logits
from zoo.models.deployable import Student
from zoo.models.discriminator import Discriminator, DiscriminatorConfig, pair
from zoo.models.encoder import freeze_batch_norm_affine
from zoo.models.segmentation import SegmentationNetwork
from zoo.train.blocks.adversarial import (
    DiscriminatorOptimizerConfig,
    ImageNorm,
    adversarial_loss,
    discriminator_loss,
    feature_matching,
    frozen,
    one_hot,
    self_training,
    unit_range,
)
from zoo.train.blocks.losses import cross_entropy
from zoo.train.method import Batch, Method, MethodConfig, Phase, Progress
from zoo.train.optim import OptimizerConfig, Schedule

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from zoo.models.config import NetworkConfig


class ImageDiscriminatorConfig(DiscriminatorConfig):
    """A discriminator of whole images."""

    level: Literal["image"] = "image"


class SegmentationOptimizerConfig(OptimizerConfig):
    """The optimiser of the segmentation network; the encoder learns at a tenth of the decoder's rate."""

    name: Literal["adamw", "adam", "sgd"] = "sgd"
    lr: float = Field(2.5e-3, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Schedule = "poly"


class PolyDiscriminatorOptimizerConfig(DiscriminatorOptimizerConfig):
    """The optimiser of the discriminator, section 4.1.3; its rate is 1e-5 on Cityscapes."""

    schedule: Schedule = "poly"


class S4GanConfig(MethodConfig):
    """Settings of s4GAN; defaults are those of PASCAL VOC."""

    name: Literal["s4gan"] = "s4gan"
    loss: Literal["fm", "sgan"] = "fm"  # Table 6: feature matching, or the generator's loss of a plain GAN
    lambda_fm: float = Field(0.1, ge=0)  # of either
    lambda_st: float = Field(1.0, ge=0)
    threshold: float = Field(0.6, ge=0, le=1)  # 0.7 on Cityscapes
    real_stream: bool = True
    image_norm: ImageNorm = "fixed"
    train_bn_affine: bool = True  # False with DeepLabv2
    discriminator: ImageDiscriminatorConfig = ImageDiscriminatorConfig()
    optimizer: SegmentationOptimizerConfig = SegmentationOptimizerConfig()
    optimizer_d: PolyDiscriminatorOptimizerConfig = PolyDiscriminatorOptimizerConfig()


OFFICIAL: dict[str, Any] = {"image_norm": "batch_minmax", "optimizer": {"encoder_lr_mult": 0.3}}
"""The settings of the authors' code where they differ from our defaults."""


class S4Gan(Method):
    """A segmentation network and a discriminator."""

    of_a_batch: ClassVar[str] = "feature matching, which compares the means of batches"

    def __init__(self, config: S4GanConfig, network: NetworkConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.config = config
        self.num_classes = network.num_classes
        self.student = SegmentationNetwork(network, pretrained=pretrained)
        self.discriminator = Discriminator(network.num_classes, config.discriminator)
        if not config.train_bn_affine:
            freeze_batch_norm_affine(self.student)

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return `ce`, `fm` (or `adv`) and `st`, which train the segmentation network, Eq. (4), and `d`."""
        c = self.config
        image_u, valid_u = batch.weak
        image_l, image_r = batch.image_l.chunk(2) if c.real_stream else (batch.image_l, batch.image_l)
        label_l, label_r = batch.label_l.chunk(2) if c.real_stream else (batch.label_l, batch.label_l)
        logits_l = resize_logits(self.student(image_l).logits, label_l.shape[-2:])
        logits_u = resize_logits(self.student(image_u).logits, image_u.shape[-2:])
        fake = pair(logits_u.softmax(dim=1), unit_range(image_u, c.image_norm, self.student.encoder))
        real = pair(
            one_hot(label_r, self.num_classes, fake.dtype),
            unit_range(image_r, c.image_norm, self.student.encoder),
        )

        with frozen(self.discriminator):
            score, features_fake = self.discriminator(fake)
            features_real = self.discriminator(real).features
        selected = (score.sigmoid() > c.threshold) & (progress.step > 0)  # (B, 1, 1)

        losses = {"ce": cross_entropy(logits_l, label_l)}  # Eq. (1)
        if c.loss == "fm":
            losses["fm"] = c.lambda_fm * feature_matching(features_real, features_fake)  # Eq. (2)
        else:
            losses["adv"] = c.lambda_fm * adversarial_loss(score)
        losses["st"] = c.lambda_st * self_training(logits_u, selected & valid_u)  # Eq. (3)
        losses["d"] = discriminator_loss(self.discriminator, real, fake)  # Eq. (5)
        return losses

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """Return one phase; the real pairs of the discriminator are a second labeled stream."""
        return (Phase("train", steps, labeled=2 if self.config.real_stream else 1),)

    def optimizers(self) -> list[Optimizer]:
        """Return the segmentation network's optimiser and the discriminator's."""
        c, student = self.config, self.student
        groups = [(student.encoder, c.optimizer.encoder_lr_mult), (student.decoder, 1.0)]
        return [c.optimizer.build(groups), c.optimizer_d.build([(self.discriminator, 1.0)])]

    def deployable(self, weights: str | None = None) -> Student:  # noqa: ARG002
        """Return a copy of the segmentation network."""
        return Student(copy.deepcopy(self.student))
