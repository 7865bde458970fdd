"""UniMatch V2: Pushing the Limit of Semi-Supervised Semantic Segmentation (Yang et al., TPAMI 2025).

https://arxiv.org/abs/2410.10777, code: LiheYoung/UniMatch-V2. A mean teacher labels the weak view of an
unlabeled image; the student learns these labels, where the teacher is confident, from strong views: colors
and CutMix. UniMatch V2 has two of them, and each sees half of the encoder's channels: complementary dropout
gives a channel to one of the two views, at twice its value. FixMatch (Sohn et al., NeurIPS 2020), as adapted
to segmentation there, is the same with one strong view and all channels.

Terms: `x` the loss on labeled images, `u` the mean over the strong views of the loss on pseudo-labels, a
half each. `u` is divided by all pixels that are not padding, so few confident ones weigh little. In each step
half of the images keep all their channels in both views.

Deviations from the authors' code:
- the student sees labeled images after the strong views, each with BatchNorm statistics of their own, so that
  the running ones are near those of inference. DPT, the decoder there, has no BatchNorm; UniMatch V2's
  labeled images come first there, FixMatch's are in one batch with the strong views.
- features of all levels share a mask, as there; where levels have different numbers of channels (CNNs), it
  is cut to each. Features go through DPT alone there, through any decoder here.
- an image is mixed with the next one of its batch, not with the one at the mirrored place, which for the
  middle image of an odd batch is itself.
- boxes of a size have only the aspects that fit into the image; the code draws aspect and place together
  until the box fits, so that boxes near the square are more frequent.
- images are scaled by U[0.5, 2]; the code draws the longer side in whole pixels, and pads on the right and
  below, not on all sides.
- what is scored is the last step, not the best epoch on `val`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from zoo.classes import IGNORE
from zoo.models.decoders.decoder import resize_logits
from zoo.models.deployable import Student
from zoo.models.segmentation import SegmentationNetwork
from zoo.train.blocks.class_confidence import ClassConfidence
from zoo.train.blocks.ema import copy_state, teacher_of, update_teacher
from zoo.train.blocks.label_loss import LabelLoss
from zoo.train.blocks.mixing import RANDOM_BOX_DRAWS, mixed, random_box
from zoo.train.method import Batch, Method, MethodConfig, Phase, Progress, PseudoLabels
from zoo.train.optim import OptimizerConfig, Schedule

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from zoo.models.config import NetworkConfig


class UniMatchOptimizerConfig(OptimizerConfig):
    """AdamW with the rates of the paper: 5e-6 for the encoder, forty times that for the decoder."""

    lr: float = Field(2e-4, gt=0)
    encoder_lr_mult: float = Field(0.025, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Schedule = "poly"


class WeakToStrongConfig(MethodConfig):
    """Settings that both methods have; defaults are those of PASCAL VOC."""

    threshold: float = Field(0.95, ge=0, le=1)  # pixels of this confidence are learned
    threshold_by_class: bool = False  # lower for classes of which the teacher is less sure; not in the papers
    cutmix_probability: float = Field(0.5, ge=0, le=1)  # of each image and view
    ohem_threshold: float | None = Field(None, gt=0, le=1)  # 0.7 on Cityscapes; None: plain cross entropy
    ohem_min_kept: int = Field(200_000, ge=1)  # pixels of a process
    ema_decay: float = Field(0.996, ge=0, lt=1)  # after a ramp
    optimizer: UniMatchOptimizerConfig = UniMatchOptimizerConfig()


class FixMatchConfig(WeakToStrongConfig):
    """Settings of FixMatch."""

    name: Literal["fixmatch"] = "fixmatch"


class UniMatchConfig(WeakToStrongConfig):
    """Settings of UniMatch V2."""

    name: Literal["unimatch"] = "unimatch"


class FixMatch(Method):
    """Student and mean teacher, one strong view."""

    weights: ClassVar[tuple[str, ...]] = ("student", "teacher")
    strong_views: ClassVar[int] = 1

    def __init__(self, config: WeakToStrongConfig, network: NetworkConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.config = config
        self.label_loss = LabelLoss()
        self.student = SegmentationNetwork(network, pretrained=pretrained)
        self.teacher = teacher_of(self.student)
        self.class_confidence = ClassConfidence(network.num_classes) if config.threshold_by_class else None
        self.train()

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:  # noqa: ARG002
        """Return `x` and `u`, the losses on labeled and unlabeled images, a half each."""
        size = batch.label_l.shape[-2:]
        image_u, valid_u = batch.weak
        pseudo_label = self.teach(image_u, valid_u, learn=True)
        label_u = pseudo_label.label.where(pseudo_label.keep, IGNORE)
        views = batch.strong.chunk(self.strong_views)
        draws = batch.draws.split(RANDOM_BOX_DRAWS, dim=1)  # a box for each view
        boxes = [random_box(each, size, self.config.cutmix_probability) for each in draws[: len(views)]]

        images = torch.cat([mixed(view, box) for view, box in zip(views, boxes, strict=True)])
        features = self.perturbed(self.student.encoder(images))
        logits_u = resize_logits(self.student.decoder(features).logits, size)
        logits_l = resize_logits(self.student(batch.image_l).logits, size)
        losses_u = [
            confident_cross_entropy(each, mixed(label_u, box), mixed(valid_u, box))
            for each, box in zip(logits_u.chunk(self.strong_views), boxes, strict=True)
        ]
        c = self.config
        loss_l = self.label_loss(logits_l, batch.label_l, c.ohem_threshold, c.ohem_min_kept)
        return {"x": loss_l / 2, "u": torch.stack(losses_u).mean() / 2}

    def perturbed(self, features: list[Tensor]) -> list[Tensor]:
        """Return what the student's decoder sees of the features of strong views: all.

        Args:
            features: (V * B, C, h, w) float each, view by view.
        """
        return features

    @torch.no_grad()
    def teach(self, image: Tensor, valid: Tensor, *, learn: bool = False) -> PseudoLabels:
        """Return the teacher's classes, kept where it is confident.

        Args:
            image: (B, 3, H, W) float, the weak view.
            valid: (B, H, W) bool, False in padding.
            learn: whether thresholds by class follow these predictions.
        """
        prob = resize_logits(self.teacher(image).logits.float(), image.shape[-2:]).softmax(dim=1)
        confidence, label = prob.max(dim=1)
        threshold: float | Tensor = self.config.threshold
        if self.class_confidence is not None:
            if learn:
                self.class_confidence.update(confidence, label, valid)
            threshold = self.class_confidence.thresholds(label, self.config.threshold)
        return PseudoLabels(label, (confidence >= threshold) & valid, confidence)

    def pseudo_labels(self, batch: Batch, progress: Progress) -> PseudoLabels:  # noqa: ARG002
        """Return the teacher's classes, kept where it is confident."""
        return self.teach(*batch.weak)

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """Return one phase: until the teacher is confident, only labels teach."""
        return (Phase("train", steps, strong=self.strong_views),)

    def start_phase(self, progress: Progress) -> None:  # noqa: ARG002
        """Start the teacher from the student."""
        copy_state(self.student, self.teacher)

    def after_step(self, progress: Progress) -> None:
        """Move the teacher, the statistics of BatchNorm too: at first it is the mean of all students."""
        decay = min(1 - 1 / (progress.step + 1), self.config.ema_decay)
        update_teacher(self.teacher, self.student, decay, with_buffers=True)

    def train(self, mode: bool = True) -> FixMatch:
        """Set the mode; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def optimizers(self) -> list[Optimizer]:
        """Return one optimizer, the encoder at its own rate."""
        optimizer = self.config.optimizer
        return [optimizer.build(optimizer.groups(self.student))]

    def deployable(self, weights: str | None = None) -> Student:
        """Return a copy of the student or of the teacher, whose figures the paper reports."""
        return Student(self.copy_of(weights))


class UniMatch(FixMatch):
    """Student and mean teacher, two strong views with complementary dropout."""

    strong_views: ClassVar[int] = 2

    def perturbed(self, features: list[Tensor]) -> list[Tensor]:
        """Return what the student's decoder sees of the features of strong views: a part of the channels.

        Args:
            features: (2 * B, C, h, w) float each, view by view.
        """
        widest = max(each.shape[1] for each in features)
        mask = complementary_dropout(len(features[0]) // 2, widest, features[0].device)[:, :, None, None]
        return [each * mask[:, : each.shape[1]].to(each.dtype) for each in features]


def complementary_dropout(images: int, channels: int, device: torch.device) -> Tensor:
    """Return the factors of the channels of two views of each image, (2 * images, channels).

    A channel has 2 in one view and 0 in the other, by an even chance; half of the images, rounded down, keep
    all their channels in both.
    """
    first = 2.0 * torch.randint(2, (images, channels), device=device)
    rank = torch.rand(images, 1, device=device).argsort(dim=0)
    first = first.where(rank >= images // 2, 1.0)
    return torch.cat([first, 2 - first])


def confident_cross_entropy(logits: Tensor, label: Tensor, valid: Tensor) -> Tensor:
    """Return the cross entropy of the confident pixels over the number of valid ones.

    Args:
        logits: (B, K, H, W) float.
        label: (B, H, W) int64, `IGNORE` where the teacher is not confident, and in padding.
        valid: (B, H, W) bool, False in padding.
    """
    total = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="sum")
    return total / valid.sum().clamp(min=1)
