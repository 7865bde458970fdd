"""RRN: Semi-Supervised Semantic Segmentation With Region Relevance (Region Relevance Network, 2023).

Code: NUST-Machine-Intelligence-Laboratory/TorchSemiSeg2, which grew from CPS (Chen et al., CVPR 2021). Two
branches teach each other with hard pseudo-labels under CutMix. A discriminator for each branch judges regions
of its predictions; a branch trains itself on its own classes where one discriminator is fooled, twice as much
where both are. The two branches are averaged in the end.

Symbols: f_b branches, d_b discriminators, rc_{b,d} regions of branch b as judged by d, epsilon `threshold`,
lambda_1 `lambda_cps`, lambda_2 `lambda_st`, lambda_3 `lambda_fm`, § the classes of a prediction.

Two phases: `cross` (Eq. 8 without L_dr), `full`. `self_training` names the modules of Table III: `none` is
CPS alone, without discriminators; `lplf` asks a branch's own discriminator (Eq. 1), `drlc` both (Eq. 3).
`none` with lambda_1 = 0 is the control of RRN: two networks trained on labels alone and averaged.

Departures from the authors' code; the preset `official` undoes those that name a setting:
- the released code judges whole images (`discriminator.level`); regions are the paper's, judged on the grid
  of patches and enlarged without interpolation.
- a discriminator's features are the mean over the whole image, the code's fixed window sees a corner.
- L_dr divides by the pixels that any discriminator accepts, the code by those of each (`normalization`).
- a discriminator sees images in their own range, not in that of the batch (`image_norm`).
- the pseudo-labels of u0 and u1 come from one pass of both (joint BatchNorm statistics), not from two; it is
  without dropout, which the authors' network does not have.
- padding takes no part: not in L_cps and L_dr, and pairs of both kinds are zero there and leave it out of
  their features and regions (in the code the prediction shows in padding and the label does not).
- recipes of short runs raise lambda_1 over their first steps (`cps_ramp_steps`) and have discriminators
  without dropout, which need thousands of steps to learn otherwise.
- no learning-rate warm-up, after which the code's rate jumps; scales are continuous.

As the code, against the paper: L_cps takes no labeled images; self-training waits for
`cross_steps`, one epoch; weight decay 1e-4, not on biases and BatchNorm; the discriminators' rate stays
as it is; the branches weigh the same (`weight_1`). Neither says how Eq. 1 and 3 are normalized for regions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.classes import IGNORE
from zoo.errors import RecipeError
from zoo.models.config import EnsembleConfig, NetworkConfig
from zoo.models.decoders.decoder import resize_logits
from zoo.models.deployable import Deployable, FusedEnsemble, Student
from zoo.models.discriminator import Discriminator, DiscriminatorConfig, pair
from zoo.models.segmentation import SegmentationNetwork
from zoo.train.blocks.adversarial import (
    DiscriminatorOptimizerConfig,
    ImageNorm,
    discriminator_loss,
    feature_matching,
    frozen,
    one_hot,
    score_without_dropout,
    self_training,
    unit_range,
)
from zoo.train.blocks.ema import without_dropout
from zoo.train.blocks.label_loss import LabelLoss
from zoo.train.blocks.losses import cross_entropy, most_likely
from zoo.train.blocks.mixing import cutmix, toggled_boxes
from zoo.train.method import Batch, Method, MethodConfig, Phase, Progress, PseudoLabels, Steps
from zoo.train.optim import OptimizerConfig, Schedule

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


BRANCHES = ((0, 1), (1, 0))
"""Each branch, and the other one."""

RAMP_SHARPNESS = 5.0
"""Of `cps_ramp_steps`: the ramp-up of consistency losses of Laine & Aila, ICLR 2017, exp(-5 (1 - t)^2)."""

Normalization = Literal["selected", "separate"]


class BranchOptimizerConfig(OptimizerConfig):
    """The optimizer of a branch; defaults are those of PASCAL VOC."""

    name: Literal["adamw", "adam", "sgd"] = "sgd"
    lr: float = Field(2.5e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    decay: Literal["all", "weights"] = "weights"
    encoder_lr_mult: float = Field(1.0, ge=0)
    schedule: Schedule = "poly"


class RrnConfig(MethodConfig):
    """Settings of RRN; defaults are those of PASCAL VOC."""

    name: Literal["rrn"] = "rrn"
    cross_steps: Steps = 1543  # an epoch of VOC 1/8: 9,259 unlabeled images, 6 a step
    self_training: Literal["none", "lplf", "drlc"] = "drlc"
    eni: bool = True  # whether the default deployable is the average of the branches
    threshold: float = Field(0.6, ge=0, le=1)  # 0.7 on Cityscapes
    selection_dropout: bool = True  # of the discriminators when they select regions, as in the code
    normalization: Normalization = "selected"
    lambda_cps: float = Field(1.0, ge=0)  # 5 on Cityscapes
    cps_ramp_steps: Steps = 0  # until lambda_cps is reached; 0: from the first step, as in the paper
    lambda_st: float = Field(1.0, ge=0)
    lambda_fm: float = Field(0.1, ge=0)
    ohem_threshold: float | None = Field(
        None, gt=0, le=1
    )  # None: plain cross entropy; CPS: 0.7 on Cityscapes
    ohem_min_kept: int = Field(50_000, ge=1)  # pixels for each image
    image_norm: ImageNorm = "fixed"
    weight_1: float = Field(0.5, gt=0, lt=1)
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    optimizer: BranchOptimizerConfig = BranchOptimizerConfig()
    optimizer_d: DiscriminatorOptimizerConfig = DiscriminatorOptimizerConfig()


OFFICIAL: dict[str, Any] = {
    "normalization": "separate",
    "image_norm": "batch_minmax",
    "discriminator": {"level": "image"},
}
"""The settings of the authors' code where they differ from our defaults."""


class Rrn(Method):
    """Two branches, each with a discriminator."""

    weights: ClassVar[tuple[str, ...]] = ("fused", "branch_1", "branch_2")
    of_a_batch: ClassVar[str] = "feature matching, which compares the means of batches"

    def __init__(self, config: RrnConfig, network: NetworkConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.config = config
        self.num_classes = network.num_classes
        self.label_loss = LabelLoss()
        self.branch_1, self.branch_2 = (SegmentationNetwork(network, pretrained=pretrained) for _ in BRANCHES)
        judges = () if config.self_training == "none" else BRANCHES
        self.discriminators = nn.ModuleList(
            Discriminator(network.num_classes, config.discriminator, network.in_channels) for _ in judges
        )

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return `sup_b` and `cps_b`, with discriminators `fm_b` and `d_b`, from the second phase `st_b`."""
        if batch.image_u is None:
            logits_l = self.logits(batch.image_l)
            return {f"sup_{b + 1}": self.supervised(logits_l[b], batch.label_l) for b, _ in BRANCHES}
        image, valid, logits_u, pseudo_label = self.mixed(batch)
        logits_l = self.logits(batch.image_l)
        losses = {}
        for b, other in BRANCHES:
            losses[f"sup_{b + 1}"] = self.supervised(logits_l[b], batch.label_l)  # Eq. (4)
            cross = cross_entropy(logits_u[b], pseudo_label[other].where(valid, IGNORE))  # Eq. (6)
            losses[f"cps_{b + 1}"] = self.lambda_cps(progress) * cross
        if self.discriminators:
            losses |= self.judged_losses(batch, image, valid, logits_u, progress)
        return losses

    def lambda_cps(self, progress: Progress) -> float:
        """Return the weight of L_cps at a step: a ramp from nearly zero to lambda_1, if one is set."""
        c = self.config
        left = max(0.0, 1 - progress.step / c.cps_ramp_steps) if c.cps_ramp_steps else 0.0
        return c.lambda_cps * math.exp(-RAMP_SHARPNESS * left**2)

    @property
    def branches(self) -> tuple[SegmentationNetwork, SegmentationNetwork]:
        """Return both branches."""
        return self.branch_1, self.branch_2

    def logits(self, images: Tensor) -> list[Tensor]:
        """Return the (B, K, H, W) logits of each branch.

        Args:
            images: (B, 3, H, W) float, normalized.
        """
        return [resize_logits(branch(images).logits, images.shape[-2:]) for branch in self.branches]

    def mixed(self, batch: Batch) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        """Return the unlabeled images under CutMix, and for each branch its logits and its pseudo-labels.

        Returns:
            (B, 3, H, W) images, (B, H, W) bool, False in padding, (B, K, H, W) logits and (B, H, W) int64.
        """
        images, valid = batch.weak
        mask = toggled_boxes(batch.draws.chunk(2)[0], images.shape[-2:])

        def mix(both: Tensor) -> Tensor:
            first, second = both.chunk(2)
            return cutmix(first, second, mask)

        with torch.no_grad(), without_dropout(self.branch_1), without_dropout(self.branch_2):
            pseudo_label = [mix(each.argmax(dim=1)) for each in self.logits(images)]
        image = mix(images)
        return image, mix(valid), self.logits(image), pseudo_label

    def supervised(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss on labeled images, Eq. (4).

        Args:
            logits: (B, K, H, W) float.
            label: (B, H, W) int64.
        """
        c = self.config
        loss: Tensor = self.label_loss(logits, label, c.ohem_threshold, c.ohem_min_kept * len(label))
        return loss

    def judged_losses(
        self, batch: Batch, image: Tensor, valid: Tensor, logits: list[Tensor], progress: Progress
    ) -> dict[str, Tensor]:
        """Return the terms that the discriminators give or get: `fm_b`, `st_b` and `d_b`.

        Args:
            batch: batch whose labeled images form the real pairs.
            image: (B, 3, H, W) float, the mixed images.
            valid: (B, H, W) bool, False in padding.
            logits: for each branch (B, K, H, W).
            progress: self-training comes with the phase `full`.
        """
        c = self.config
        encoder = self.branch_1.encoder
        seen = unit_range(image, c.image_norm, encoder, valid)
        fake = [pair(each.softmax(dim=1), seen, valid) for each in logits]
        label = one_hot(batch.label_l, self.num_classes, seen.dtype)
        real = pair(label, unit_range(batch.image_l, c.image_norm, encoder, batch.valid_l), batch.valid_l)
        losses, scores = {}, {}
        for d, other in BRANCHES:
            discriminator = self.discriminators[d]
            with frozen(discriminator):  # only the pair of its own branch needs a graph
                own = discriminator(fake[d], valid)
                rest = discriminator(
                    torch.cat([fake[other].detach(), real]), torch.cat([valid, batch.valid_l])
                )
            for b, score in ((d, own.score), (other, rest.score[: len(image)])):
                scores[b, d] = self.selecting_score(discriminator, score, fake[b], valid)
            losses[f"fm_{d + 1}"] = c.lambda_fm * feature_matching(rest.features[len(image) :], own.features)
            losses[f"d_{d + 1}"] = discriminator_loss(
                discriminator, real, fake[d], torch.cat([batch.valid_l, valid])
            )
        if progress.phase == "full":
            for b, other in BRANCHES:
                judges = (b,) if c.self_training == "lplf" else (b, other)
                regions = torch.stack([self.fooled(scores[b, d], valid) for d in judges])
                losses[f"st_{b + 1}"] = c.lambda_st * region_loss(logits[b], regions, c.normalization)
        return losses

    def selecting_score(self, discriminator: nn.Module, score: Tensor, fake: Tensor, valid: Tensor) -> Tensor:
        """Return the score by which regions are selected: the one given, or a new one without dropout.

        Args:
            discriminator: discriminator that computed the score.
            score: (B, h, w) logits.
            fake: (B, K + C, H, W) float, scored pairs.
            valid: (B, H, W) bool, False in padding.
        """
        if self.config.selection_dropout:
            return score
        return score_without_dropout(discriminator, fake, valid)

    def fooled(self, score: Tensor, valid: Tensor) -> Tensor:
        """Return the pixels, outside the padding, that a discriminator takes for real, (B, H, W) bool.

        Args:
            score: (B, h, w) logits.
            valid: (B, H, W) bool, False in padding.
        """
        return fooled_regions(score, valid.shape[-2:], self.config.threshold) & valid

    def pseudo_labels(self, batch: Batch, progress: Progress) -> PseudoLabels | None:  # noqa: ARG002
        """Return the first branch's own classes, kept where a discriminator that judges it is fooled."""
        if not self.discriminators:
            return None
        image, valid = batch.weak
        logits = resize_logits(self.branch_1(image).logits, image.shape[-2:])
        seen = unit_range(image, self.config.image_norm, self.branch_1.encoder, valid)
        fake = pair(logits.softmax(dim=1), seen, valid)
        judges = self.discriminators[: 1 if self.config.self_training == "lplf" else 2]
        scores = [self.selecting_score(judge, judge(fake, valid).score, fake, valid) for judge in judges]
        regions = [self.fooled(score, valid) for score in scores]
        return PseudoLabels(logits.argmax(dim=1), torch.stack(regions).any(dim=0), most_likely(logits))

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """Return `cross` and, for the rest of the run, `full`; without self-training `cross` alone.

        Without cross supervision either, no phase has unlabeled images.

        Raises:
            RecipeError: no step is left for `full`.
        """
        c = self.config
        if c.self_training == "none":
            return (Phase("cross", steps, unlabeled=2 if c.lambda_cps else 0),)
        if c.cross_steps >= steps:
            raise RecipeError(
                f"method.cross_steps is {c.cross_steps}, expected less than the {steps} steps of the run: "
                f"lower it, or give --steps N, which keeps its share"
            )
        phases = (
            Phase("cross", c.cross_steps, unlabeled=2),
            Phase("full", steps - c.cross_steps, unlabeled=2),
        )
        return tuple(phase for phase in phases if phase.steps)

    def optimizers(self) -> list[Optimizer]:
        """Return one optimizer for each branch and one for each discriminator."""
        c = self.config
        branches = [c.optimizer.build(c.optimizer.groups(branch)) for branch in self.branches]
        return branches + [c.optimizer_d.build([(each, 1.0)]) for each in self.discriminators]

    @property
    def default_weights(self) -> str:
        """Return which of `weights` a bundle holds by default: the average, without ENI the first branch."""
        return "fused" if self.config.eni else "branch_1"

    def deployable(self, weights: str | None = None) -> Deployable:
        """Return a copy of both branches under their average (section II-D), or of one of them."""
        weights = weights or self.default_weights
        if weights != "fused":
            return Student(self.copy_of(weights))
        first, second = self.copy_of("branch_1"), self.copy_of("branch_2")
        config = EnsembleConfig(branches=(first.config, second.config), weight_1=self.config.weight_1)
        return FusedEnsemble((first, second), config)


def fooled_regions(score: Tensor, size: torch.Size, threshold: float) -> Tensor:
    """Return the pixels that a discriminator takes for real, (B, H, W) bool: rc >= epsilon in Eq. (1).

    The decisions, not the scores, are resized, by nearest neighbor.

    Args:
        score: (B, h, w) logits, any grid.
        size: height and width in pixels.
        threshold: epsilon, in [0, 1].
    """
    prob = score.sigmoid().unsqueeze(1)
    return F.interpolate((prob >= threshold).float(), size).squeeze(1) == 1


def region_loss(logits: Tensor, regions: Tensor, normalization: Normalization) -> Tensor:
    """Return the local selection loss, Eq. (1), or with two discriminators the dynamic one, Eq. (3).

    A pixel weighs as much as the number of discriminators that take its region for real.

    Args:
        logits: (B, K, H, W) float.
        regions: (D, B, H, W) bool, what each discriminator takes for real; nothing in padding.
        normalization: the sum is divided by the number of pixels with a weight (`selected`), or each
            discriminator's own sum by the number of its own (`separate`).
    """
    if normalization == "separate":
        return torch.stack([self_training(logits, each) for each in regions]).sum()
    return self_training(logits, regions.sum(dim=0))
