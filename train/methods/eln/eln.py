"""ELN: Semi-supervised Semantic Segmentation with Error Localization Network (Kwon & Kwak, CVPR 2022).

https://arxiv.org/abs/2204.02078, code: kinux98/SSL_ELN. A network learns, from the labeled images, where a
prediction is wrong; it sees many kinds of error because auxiliary decoders are kept from becoming good. Its
map then decides which pseudo-labels of a mean teacher are used, in self-training and in a pixel contrastive
loss.

Symbols: E, D student encoder and decoder, D^k auxiliary decoders, M^k where the prediction of D^k is right,
B the map of the ELN, beta `ema_decay`, alpha^k `alphas`, tau `temperature`.

Three phases: `pretrain` (L_sup), `localize` (+ L_aux + L_ELN, Eq. 7), `semi` (+ L_pseudo + L_contra, Eq. 11).

Departures from the authors' code; the preset `official` undoes those that name a setting:
- utils/main_do.py:108-192 encodes the labeled batch three times, with fresh dropout, and runs the ELN once
  for each prediction; here one encoding, and one ELN batch of K + 1 predictions (joint BatchNorm
  statistics).
- the parameter filter misses the BatchNorms' scale and shift; they are trained here (`train_bn_affine`).
- L_ELN is the mean over the K + 1 predictions as in Eq. 6, the code sums (`filter.reduction`).
- the ELN judges unlabeled images in evaluation mode, the code in training mode (`filter.batch_norm`).
- the contrastive loss is Eq. 10 with its sum over positives made a mean, weight 0.1; the code's ratio of
  sums is `contrast = "official"`, weight 1. Eq. 10 itself grows with the size of a class and cannot be
  trained with weight 1.
- the ELN's projection shortcuts start from ImageNet weights too (the code misses their names), its last
  stage is dilated as timm does it, and decoder convolutions start with zero bias.
- padding takes no part: not in L_pseudo, not in the contrast, and in L_ELN neither as an error nor in the
  balance of Eq. 5 (the code never pads).

As the code, against the paper: logits (not probabilities) feed the ELN; losses are means over pixels; the
aux gate is `>=` and, like the balance of Eq. 5, per batch; both views are trained; pseudo-labels live on the
decoder's grid; contrast is taken in windows; void pixels of a mask count as errors; the teacher's BatchNorm
keeps its own statistics (`teacher_batch_norm`); the student is overwritten by the teacher after each epoch of
self-training but the last, `reset_every` steps (confirmed by the authors, issue 1 of their tracker).
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.classes import IGNORE
from zoo.errors import RecipeError
from zoo.models.config import LocalizedConfig, LocalizerConfig
from zoo.models.decoders.decoder import resize_logits
from zoo.models.deployable import Localized, Student
from zoo.models.encoder import freeze_batch_norm_affine
from zoo.models.segmentation import SegmentationNetwork
from zoo.train.blocks.ema import copy_state, set_dropout, teacher_of, update_teacher, without_dropout
from zoo.train.blocks.label_loss import LabelLoss
from zoo.train.blocks.losses import cross_entropy, most_likely
from zoo.train.method import (
    LOCALIZER,
    Batch,
    LabelsOnlySteps,
    Method,
    MethodConfig,
    Phase,
    Progress,
    PseudoLabels,
    ScalesWithRun,
    Steps,
)
from zoo.train.methods.eln.contrast import FORMS, mean_over_windows, random_windows
from zoo.train.methods.eln.filters import FILTERS, ConfidenceFilter, ErrorLocalizationFilter, FilterConfig
from zoo.train.optim import OptimizerConfig

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from zoo.models.config import NetworkConfig


class ElnConfig(MethodConfig):
    """Settings of ELN; defaults are those of PASCAL VOC."""

    name: Literal["eln"] = "eln"
    pretrain_steps: LabelsOnlySteps = 18_620  # 70 of the authors' epochs of 266 steps
    localize_steps: Steps = 13_300  # 50 of them
    # an epoch; 0: never reset the student. The teacher averages over 200 steps at the default decay:
    # a student that is reset sooner loses most of what it learned
    reset_every: Annotated[int, Field(ge=0), ScalesWithRun(at_least=200)] = 266
    alphas: tuple[float, ...] = (20.0, 50.0)  # Table 5
    filter: FilterConfig = FilterConfig()
    teacher_batch_norm: Literal["own", "ema"] = "own"
    lambda_pseudo: float = Field(1.0, ge=0)
    contrast: Literal["official", "mean_pos", "none"] = "mean_pos"
    lambda_contrast: float | None = Field(None, ge=0)  # None: 1 for `official`, 0.1 for `mean_pos`
    temperature: float = Field(0.5, ge=0.02)  # exp(1 / temperature) must stay finite
    windows: int = Field(8, ge=1)
    window_size: int = Field(32, ge=1)  # in pixels of the decoder's grid
    embedding_channels: int = Field(128, ge=1)
    ema_decay: float = Field(0.995, ge=0, lt=1)
    train_bn_affine: bool = True
    optimizer: OptimizerConfig = OptimizerConfig()


OFFICIAL: dict[str, Any] = {
    "train_bn_affine": False,
    "filter": {"reduction": "sum", "batch_norm": "train"},
    "contrast": "official",
}
"""The settings of the authors' code where they differ from our defaults."""


DEFAULT_LAMBDA_CONTRAST = {"official": 1.0, "mean_pos": 0.1}


class Eln(Method):
    """Student, teacher, auxiliary decoders and the error localization network."""

    weights: ClassVar[tuple[str, ...]] = ("student", "teacher")
    of_a_batch: ClassVar[str] = "the balance of right and wrong pixels, and the pairs of the contrast"

    def __init__(self, config: ElnConfig, network: NetworkConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.config = config
        self.num_classes = network.num_classes
        embedding = 0 if config.contrast == "none" else config.embedding_channels
        self.label_loss = LabelLoss()
        self.student = SegmentationNetwork(
            network.model_copy(update={"embedding_channels": embedding}), pretrained=pretrained
        )
        self.teacher = teacher_of(self.student)
        self.filter = FILTERS[config.filter.kind](config.filter, network, pretrained=pretrained)
        count = len(config.alphas) if isinstance(self.filter, ErrorLocalizationFilter) else 0
        self.auxiliary = nn.ModuleList(self.student.new_decoder(embedding_channels=0) for _ in range(count))
        if not config.train_bn_affine:
            for module in (self.student, self.auxiliary):
                freeze_batch_norm_affine(module)
        self.train()

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return `sup`, from the second phase `aux` and `eln`, from the third `pseudo*` and `con*`."""
        losses = self.labeled_losses(batch, progress)
        if progress.phase == "semi":
            losses |= self.unlabeled_losses(batch)
        return losses

    def labeled_losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return the terms of the labeled images, Eq. (2), (3) and (6)."""
        features = self.student.encoder(batch.image_l)
        size = batch.label_l.shape[-2:]
        logits = resize_logits(self.student.decoder(features).logits, size)
        losses = {"sup": self.label_loss(logits, batch.label_l)}  # Eq. (2)
        if progress.phase != "pretrain" and isinstance(self.filter, ErrorLocalizationFilter):
            detached = [each.detach() for each in features]
            inferior = [decoder(detached).logits for decoder in self.auxiliary]
            inferior = [resize_logits(each, size) for each in inferior]
            plain = self.label_loss.config.is_plain  # alpha compares cross entropies, whatever `sup` is
            main = losses["sup"] if plain else cross_entropy(logits.detach(), batch.label_l)
            losses["aux"] = self.auxiliary_loss(inferior, batch.label_l, main)
            losses["eln"] = self.filter.loss(batch.image_l, [logits, *inferior], batch.label_l, batch.valid_l)
        return losses

    def auxiliary_loss(self, inferior: list[Tensor], label: Tensor, main: Tensor) -> Tensor:
        """Return the cross entropy of the auxiliary decoders whose loss is far above the main one's, Eq. (3).

        Args:
            inferior: (B, K, H, W) logits of each auxiliary decoder.
            label: (B, H, W) int64.
            main: () loss of the main decoder, without gradient.
        """
        total = main.new_zeros(())
        for alpha, logits in zip(self.config.alphas, inferior, strict=True):
            loss = cross_entropy(logits, label)
            total = total + loss * (loss.detach() >= alpha * main.detach())
        return total

    def unlabeled_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the self-training terms, Eq. (9), and the contrastive terms, Eq. (10), of the two views."""
        image, valid = batch.weak
        teacher_embedding, pseudo_label = self.teach(image, valid)
        losses = {}
        for suffix, view in (("_s", batch.strong), ("", image)):
            logits, embedding = self.student(view)
            logits = resize_logits(logits, pseudo_label.shape[-2:])
            losses[f"pseudo{suffix}"] = self.config.lambda_pseudo * cross_entropy(logits, pseudo_label)
            if embedding is not None and teacher_embedding is not None:
                losses[f"con{suffix}"] = self.contrast(teacher_embedding, embedding, pseudo_label)
        return losses

    def pseudo_labels(self, batch: Batch, progress: Progress) -> PseudoLabels | None:
        """Return the teacher's classes; before it starts, the student's under the filter in training."""
        image, valid = batch.weak
        if progress.phase == "pretrain":
            return None
        network = self.teacher if progress.phase == "semi" else self.student
        with without_dropout(network):
            logits = network(image).logits
        label, keep, confidence = (
            F.interpolate(value.unsqueeze(1).float(), size=image.shape[-2:]).squeeze(1)  # nearest
            for value in (logits.argmax(dim=1), self.filter.trusted(image, logits), most_likely(logits))
        )
        return PseudoLabels(label.long(), (keep == 1) & valid, confidence)

    @torch.no_grad()
    def teach(self, image: Tensor, valid: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the teacher's embedding (B, D, h, w) and its classes, `IGNORE` where filtered out.

        The classes are (B, h, w), on the decoder's grid.

        Args:
            image: (B, 3, H, W) float, weak view.
            valid: (B, H, W) bool, False in padding.
        """
        logits, embedding = self.teacher(image)
        inside = (
            F.interpolate(valid.unsqueeze(1).float(), size=logits.shape[-2:], mode="area").squeeze(1) == 1
        )
        if isinstance(self.filter, ConfidenceFilter):
            self.filter.follow(logits, inside)
        trusted = self.filter.trusted(image, logits)
        return embedding, logits.argmax(dim=1).where(trusted & inside, IGNORE)

    def contrast(self, teacher_embedding: Tensor, student_embedding: Tensor, pseudo_label: Tensor) -> Tensor:
        """Return the contrastive loss over random windows, Eq. (10), weighted.

        Args:
            teacher_embedding: (B, D, h, w) float.
            student_embedding: (B, D, h, w) float.
            pseudo_label: (B, h, w) int64.
        """
        c = self.config
        form = partial(FORMS[c.contrast], num_classes=self.num_classes, temperature=c.temperature)
        windows = random_windows(teacher_embedding, c.windows, c.window_size)
        weight = DEFAULT_LAMBDA_CONTRAST[c.contrast] if c.lambda_contrast is None else c.lambda_contrast
        return weight * mean_over_windows(form, teacher_embedding, student_embedding, pseudo_label, windows)

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """Return `pretrain`, `localize` and, for the rest of the run, `semi`.

        Raises:
            RecipeError: no step is left for `semi`.
        """
        first, second = self.config.pretrain_steps, self.config.localize_steps
        if not isinstance(self.filter, ErrorLocalizationFilter):
            second = 0  # nothing to learn
        if first + second >= steps:
            raise RecipeError(
                f"method.pretrain_steps + method.localize_steps is {first + second}, expected less than the "
                f"{steps} steps of the run: shorten the phases, or give --steps N, which keeps their shares"
            )
        phases = (
            Phase("pretrain", first, unlabeled=0, untrained=("teacher", LOCALIZER)),
            Phase("localize", second, unlabeled=0, untrained=("teacher",)),
            Phase("semi", steps - first - second, strong=1),
        )
        return tuple(phase for phase in phases if phase.steps)

    def start_phase(self, progress: Progress) -> None:
        """Start the teacher from the student when self-training begins."""
        if progress.phase == "semi":
            copy_state(self.student, self.teacher)

    def after_step(self, progress: Progress) -> None:
        """Update the teacher, Eq. (8), and reset the student to it before each further period of a run.

        The period must be a whole one: a student that is put back just before the end would be the teacher.
        """
        if progress.phase != "semi":
            return
        with_buffers = self.config.teacher_batch_norm == "ema"
        update_teacher(self.teacher, self.student, self.config.ema_decay, with_buffers=with_buffers)
        left = progress.steps - progress.step - 1
        period = self.config.reset_every
        if period and (progress.phase_step + 1) % period == 0 and left >= period:
            copy_state(self.teacher, self.student)

    def train(self, mode: bool = True) -> Eln:
        """Set the mode; the teacher never uses dropout, and its BatchNorm tracks its own statistics."""
        super().train(mode)
        set_dropout(self.teacher, active=False)
        if self.config.teacher_batch_norm == "ema":
            self.teacher.eval()
        return self

    def optimizers(self) -> list[Optimizer]:
        """Return one optimizer, with a separate learning rate for the encoders."""
        optimizer = self.config.optimizer
        groups = optimizer.groups(self.student)
        if isinstance(self.filter, ErrorLocalizationFilter):
            groups += optimizer.groups(self.filter.localizer)
        return [optimizer.build([*groups, *((decoder, 1.0) for decoder in self.auxiliary)])]

    def deployable(self, weights: str | None = None) -> Student:
        """Return a copy of the student (section 3.2, last sentence) or the teacher."""
        return Student(self.copy_of(weights))

    def with_localizer(self, student: Student) -> Localized | None:
        """Return a model with a copy of the localizer; None with another filter, also with s-ECN's."""
        kept = self.config.filter
        if kept.kind != "eln":
            return None
        assert isinstance(self.filter, ErrorLocalizationFilter)
        localizer = LocalizerConfig(encoder=kept.encoder, decoder=kept.decoder, scores=kept.scores)
        config = LocalizedConfig(segmentation=student.config, localizer=localizer)
        return Localized(student, copy.deepcopy(self.filter.localizer), config)
