"""s4GAN: Semi-Supervised Semantic Segmentation with High- and Low-level Consistency (Mittal et al., TPAMI).

https://arxiv.org/abs/1908.05724, code: sud0301/semisup-semseg. The segmentation network is the generator of a
conditional GAN: a discriminator tells its predictions on unlabeled images from the labels of labeled ones.
Its features pull the predictions toward labels, and its score picks the images good enough for
self-training, which in turn keeps it from winning. (The paper's other branch, MLMT, is a method of its own.)

Symbols: S segmentation network, D discriminator, gamma `threshold`, y* the classes of a prediction.

Two phases: `adversarial` (L_ce and L_fm, if `adversarial_steps` asks for it), `train` (+ L_st).

Departures from the authors' code; the preset `official` undoes those that name a setting:
- the encoder learns at the paper's rate; the code lists its weights several times, so that they move some
  three times as far (`optimizer.encoder_lr_mult`). Recipes of DeepLabv2 have all four dilations, of which the
  code uses two (`network.decoder.rates`).
- a discriminator sees images in their own range, not in that of the batch (`image_norm`), and real ones not
  in that of the unlabeled batch.
- its features are the mean over the image, whatever its size.
- padding takes no part: not in L_st, and pairs of both kinds are zero there and leave it out of their
  features (in the code the prediction shows in padding and the label does not, which tells them apart).

As the code, against the paper: losses are means over pixels; an image is selected by D > gamma, none in the
first step of a run, under dropout of D (`selection_dropout`); no dropout after the fourth convolution; real
pairs come from a stream of their own. Recipes of short runs wait until the network has learned from labels
(`adversarial_steps`), and have a discriminator without dropout, which needs thousands of steps to learn
otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.errors import RecipeError
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
    score_without_dropout,
    self_training,
    unit_range,
)
from zoo.train.blocks.label_loss import LabelLoss
from zoo.train.blocks.losses import most_likely
from zoo.train.method import Batch, Method, MethodConfig, Phase, Progress, PseudoLabels, Steps
from zoo.train.optim import OptimizerConfig, Schedule

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from zoo.models.config import NetworkConfig


class ImageDiscriminatorConfig(DiscriminatorConfig):
    """A discriminator of whole images."""

    level: Literal["image"] = "image"


class SegmentationOptimizerConfig(OptimizerConfig):
    """The optimizer of the segmentation network; the encoder learns at a tenth of the decoder's rate."""

    name: Literal["adamw", "adam", "sgd"] = "sgd"
    lr: float = Field(2.5e-3, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Schedule = "poly"


class PolyDiscriminatorOptimizerConfig(DiscriminatorOptimizerConfig):
    """The optimizer of the discriminator, section 4.1.3; its rate is 1e-5 on Cityscapes."""

    schedule: Schedule = "poly"


class S4GanConfig(MethodConfig):
    """Settings of s4GAN; defaults are those of PASCAL VOC."""

    name: Literal["s4gan"] = "s4gan"
    loss: Literal["fm", "sgan"] = "fm"  # Table 6: feature matching, or the generator's loss of a plain GAN
    lambda_fm: float = Field(0.1, ge=0)  # of either
    lambda_st: float = Field(1.0, ge=0)
    adversarial_steps: Steps = 0  # before self-training; 0: it starts in the second step, as in the code
    threshold: float = Field(0.6, ge=0, le=1)  # 0.7 on Cityscapes
    selection_dropout: bool = True  # of the discriminator when it selects images, as in the code
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
        self.label_loss = LabelLoss()
        self.student = SegmentationNetwork(network, pretrained=pretrained)
        self.discriminator = Discriminator(network.num_classes, config.discriminator, network.in_channels)
        if not config.train_bn_affine:
            freeze_batch_norm_affine(self.student)

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return `ce`, `fm` (or `adv`) and in `train` `st`, which train the segmentation network, and `d`.

        The sum of all but `d` is Eq. (4).
        """
        c = self.config
        image_u, valid_u = batch.weak
        (image_l, image_r), (label_l, label_r), (_, valid_r) = (each.chunk(2) for each in batch[:3])
        logits_l = resize_logits(self.student(image_l).logits, label_l.shape[-2:])
        logits_u = resize_logits(self.student(image_u).logits, image_u.shape[-2:])
        encoder = self.student.encoder
        fake = pair(logits_u.softmax(dim=1), unit_range(image_u, c.image_norm, encoder, valid_u), valid_u)
        label = one_hot(label_r, self.num_classes, fake.dtype)
        real = pair(label, unit_range(image_r, c.image_norm, encoder, valid_r), valid_r)

        with frozen(self.discriminator):
            score, features_fake, _ = self.discriminator(fake, valid_u)
            features_real = self.discriminator(real, valid_r).features

        losses = {"ce": self.label_loss(logits_l, label_l)}  # Eq. (1)
        if c.loss == "fm":
            losses["fm"] = c.lambda_fm * feature_matching(features_real, features_fake)  # Eq. (2)
        else:
            losses["adv"] = c.lambda_fm * adversarial_loss(score)
        if progress.phase == "train":
            selected = self.fooled(score, fake, valid_u) & (progress.step > 0)
            losses["st"] = c.lambda_st * self_training(logits_u, selected & valid_u)  # Eq. (3)
        valid = torch.cat([valid_r, valid_u])
        losses["d"] = discriminator_loss(self.discriminator, real, fake, valid)  # Eq. (5)
        return losses

    def fooled(self, score: Tensor, fake: Tensor, valid: Tensor) -> Tensor:
        """Return which images the discriminator takes for real, (B, 1, 1) bool.

        Args:
            score: (B, 1, 1) logits, given with dropout.
            fake: (B, K + C, H, W) float, the pairs, scored anew if dropout must not select.
            valid: (B, H, W) bool, False in padding.
        """
        if not self.config.selection_dropout:
            score = score_without_dropout(self.discriminator, fake, valid)
        return score.sigmoid() > self.config.threshold

    def pseudo_labels(self, batch: Batch, progress: Progress) -> PseudoLabels | None:  # noqa: ARG002
        """Return the classes of the images, all of one kept or none."""
        image, valid = batch.weak
        logits = resize_logits(self.student(image).logits, image.shape[-2:])
        seen = unit_range(image, self.config.image_norm, self.student.encoder, valid)
        fake = pair(logits.softmax(dim=1), seen, valid)
        fooled = self.fooled(self.discriminator(fake, valid).score, fake, valid)
        return PseudoLabels(logits.argmax(dim=1), fooled & valid, most_likely(logits))

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """Return `adversarial`, if it has a step, and `train`, with self-training, for the rest of the run.

        The real pairs of the discriminator are a second labeled stream.

        Raises:
            RecipeError: no step is left for `train`.
        """
        first = self.config.adversarial_steps
        if first >= steps:
            raise RecipeError(
                f"method.adversarial_steps is {first}, expected less than the {steps} steps of the run: "
                f"lower it, or give --steps N, which keeps its share"
            )
        phases = (Phase("adversarial", first, labeled=2), Phase("train", steps - first, labeled=2))
        return tuple(phase for phase in phases if phase.steps)

    def optimizers(self) -> list[Optimizer]:
        """Return the segmentation network's optimizer and the discriminator's."""
        c = self.config
        groups = c.optimizer.groups(self.student)
        return [c.optimizer.build(groups), c.optimizer_d.build([(self.discriminator, 1.0)])]

    def deployable(self, weights: str | None = None) -> Student:
        """Return a copy of the segmentation network."""
        return Student(self.copy_of(weights))
