"""U2PL: Semi-Supervised Semantic Segmentation Using Unreliable Pseudo-Labels (Wang et al., CVPR 2022).

https://arxiv.org/abs/2203.03884, code: Haochen-Wang409/U2PL. A mean teacher with CutMix: of its predictions
those of low entropy become pseudo-labels. The others still say what a pixel is not, and become negatives of
the unlikely classes in a pixel contrastive loss with a queue of negatives for each class.

Symbols: alpha_t share of unreliable pixels (`alpha_0` at the start), gamma_t entropy that parts them, eta and
lambda_c weights; those of the contrastive loss stand with `ClassContrastConfig`.
Two phases: `sup` (L_s) and `semi` (+ L_u + L_c, Eq. 1).

Departures from the authors' code; the preset `official` undoes those that name a setting:
- anchors are all reliable pixels as in Eq. 10, the code takes the alpha_t of lowest entropy
  (`contrast.anchors`); the positive is their mean as in Eq. 12, the code's ignores delta_p
  (`contrast.positive`).
- gamma_t is the quantile over the batches of all processes, the code's over each alone (`quantile`).
- lambda_c is the paper's 0.1; the code's, never set, comes to 1 / number of processes (`lambda_c`).
- negatives are those of Eq. 14 and 15, and class ids are right. `official` does not bring these two bugs
  back: the code multiplies the negatives of a class with its own labels, which leaves next to none, and
  indexes anchors by their place among the classes present but queues by class.
- the code's teacher is the student throughout the first epoch, and before that a network of its own; here it
  starts as a copy of the student, BatchNorm statistics included, and the ramp of the decay acts.
- padding is `IGNORE`, not class 0; padded and void pixels take no part, as negatives neither; nor is padding
  in the B x H x W of Eq. 8 (`weight_over`).
- alpha_t falls from the start of `semi`, not of the run (`alpha_from`): the paper's warm start is one epoch
  of 80, a longer one would leave little of alpha_0; and it falls with each step, not each epoch.
- each image, not each batch, draws whether it gets a box; one class alone still has a contrastive loss.
- images are scaled by U[0.5, 2], of which a third makes them smaller (`data.augment.scale`); the code draws
  from [0.5, 1] and from [1, 2] half of the time each.
- at most `contrast.pushes` keys of a class, step and process are queued: all of them would renew a queue
  every second step. The anchors of a class share one draw of negatives: each anchor's are even draws from
  the queue all the same, so the expected loss is that of separate draws, without a (K, M, N, D) tensor.

As the code, against the paper: M, N = 256, 50 (confirmed by the authors, issues 31 and 38 of their tracker);
labels come from the teacher's view of the whole image, entropy, ranks and features from its view of the mixed
one, in training mode; the mean is over classes with anchors and negatives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from zoo.classes import IGNORE
from zoo.errors import RecipeError
from zoo.models.decoders.decoder import conv_bn_relu, entropy, resize_logits
from zoo.models.deployable import Student
from zoo.models.segmentation import SegmentationNetwork
from zoo.train.blocks.ema import copy_state, evaluating, teacher_of, update_teacher
from zoo.train.blocks.gather import gathered
from zoo.train.blocks.label_loss import LabelLoss
from zoo.train.blocks.losses import cross_entropy
from zoo.train.blocks.mixing import half_area_box, mixed
from zoo.train.method import Batch, LabelsOnlySteps, Method, MethodConfig, Phase, Progress, PseudoLabels
from zoo.train.methods.u2pl.contrast import ClassContrast, ClassContrastConfig, TeacherTargets
from zoo.train.methods.u2pl.sampling import on_grid, quantiles
from zoo.train.optim import OptimizerConfig, Schedule

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from zoo.models.config import NetworkConfig


class U2plOptimizerConfig(OptimizerConfig):
    """SGD with the rates of PASCAL VOC: 0.001 for the encoder, ten times that for the decoder."""

    name: Literal["adamw", "adam", "sgd"] = "sgd"
    lr: float = Field(1e-2, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Schedule = "poly"


class U2plConfig(MethodConfig):
    """Settings of U2PL; defaults are those of PASCAL VOC."""

    name: Literal["u2pl"] = "u2pl"
    warm_start_steps: LabelsOnlySteps = 578  # one epoch of the partition 1/8
    ohem_threshold: float | None = Field(None, gt=0, le=1)  # 0.7 on Cityscapes; None: plain cross entropy
    ohem_min_kept: int = Field(100_000, ge=1)  # pixels of a process
    auxiliary_weight: float = Field(0.0, ge=0)  # 0.4 on Cityscapes, only in the code
    cutmix_probability: float = Field(0.5, ge=0, le=1)
    alpha_0: float = Field(0.2, ge=0, lt=1)
    dynamic_partition: bool = True  # False: alpha_t stays alpha_0
    alpha_from: Literal["semi", "start"] = "semi"  # when t is 0: where self-training starts, or the run
    quantile: Literal["global", "local"] = "global"
    eta: float = Field(1.0, ge=0)
    weight_over: Literal["valid", "all"] = "valid"  # B x H x W of Eq. 8: without padding, or with it
    lambda_c: float = Field(0.1, ge=0)
    contrast: ClassContrastConfig = ClassContrastConfig()
    ema_decay: float = Field(0.99, ge=0, lt=1)
    teacher_batch_norm: Literal["own", "ema"] = "own"
    optimizer: U2plOptimizerConfig = U2plOptimizerConfig()


OFFICIAL: dict[str, Any] = {
    "alpha_from": "start",
    "quantile": "local",
    "weight_over": "all",
    "lambda_c": 0.25,  # 1 / number of processes on VOC
    "contrast": {"anchors": "lowest", "positive": "class"},
}
"""The settings of the authors' code where they differ from our defaults."""


class TeacherOutput(NamedTuple):
    """Outputs of the teacher for labeled images and mixed unlabeled ones."""

    images: Tensor
    """(B_l + B_u, 3, H, W) float, the images."""
    prob: Tensor
    """(B_l + B_u, K, h, w) float, class probabilities on the decoder's grid."""
    embedding: Tensor
    """(B_l + B_u, D, h, w) float, on the decoder's grid."""
    label: Tensor
    """(B_u, H, W) int64, predicted class."""
    valid: Tensor
    """(B_u, H, W) bool, False in padding."""
    lowest: Tensor
    """(B_u, H, W) bool, the share alpha_t of valid pixels with the lowest entropy."""
    reliable: Tensor
    """(B_u, H, W) bool, valid pixels except the share alpha_t with the highest entropy."""


class U2pl(Method):
    """Student, teacher and the queues of negatives."""

    weights: ClassVar[tuple[str, ...]] = ("student", "teacher")
    of_a_batch: ClassVar[str] = "the quantiles of entropy, and what the contrast draws and queues"

    def __init__(self, config: U2plConfig, network: NetworkConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.config = config
        self.num_classes = network.num_classes
        self.label_loss = LabelLoss()
        self.student = SegmentationNetwork(
            network.model_copy(update={"embedding_channels": config.contrast.embedding_channels}),
            pretrained=pretrained,
        )
        self.teacher = teacher_of(self.student)
        middle = self.student.encoder.channels[-2]
        self.auxiliary = auxiliary_head(middle, network) if config.auxiliary_weight else None
        self.contrast = ClassContrast(config.contrast, network.num_classes)
        # all processes fill the same queues: DDP does not need to broadcast their 300 MB at every step
        self._ddp_params_and_buffers_to_ignore = [
            name for name, _ in self.named_buffers() if name.startswith("contrast.")
        ]
        self.train()

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return `s`, in the phase `semi` also `u` and `c`, Eq. (1)."""
        if progress.phase == "sup":
            maps, _ = self.predict(batch.image_l)
            return {"s": self.supervised(maps, batch.label_l)}
        labeled = len(batch.label_l)
        output = self.teach(batch, self.alpha(progress))
        maps, embedding = self.predict(output.images)
        return {
            "s": self.supervised([logits[:labeled] for logits in maps], batch.label_l),
            "u": self.unsupervised(maps[0][labeled:], output),
            "c": self.config.lambda_c * self.contrast(embedding, self.taught(batch.label_l, output)),
        }

    def predict(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the student's logits, those of the auxiliary head last, and its embedding (B, D, h, w)."""
        features = self.student.encoder(image)
        logits, embedding = self.student.decoder(features)
        return [logits, *([] if self.auxiliary is None else [self.auxiliary(features[-2])])], embedding

    def alpha(self, progress: Progress) -> float:
        """Return the share of unreliable pixels, Eq. (7), which falls to zero until the end of the run."""
        c = self.config
        if not c.dynamic_partition:
            return c.alpha_0
        before = progress.step - progress.phase_step if c.alpha_from == "semi" else 0  # the warm start
        return c.alpha_0 * (1 - (progress.step - before) / (progress.steps - before))

    @torch.no_grad()
    def teach(self, batch: Batch, alpha: float) -> TeacherOutput:
        """Return the outputs of the teacher, Eq. (5, 6).

        Args:
            batch: batch with a weak view.
            alpha: share of unreliable pixels.
        """
        box = half_area_box(batch.draws, batch.weak[0].shape[-2:], self.config.cutmix_probability)
        return self.teach_mixed(batch, box, alpha)

    def pseudo_labels(self, batch: Batch, progress: Progress) -> PseudoLabels | None:
        """Return the teacher's classes of images without boxes, kept where its entropy is low."""
        if progress.phase == "sup":
            return None
        no_box = torch.zeros_like(batch.weak[1])
        output = self.teach_mixed(batch, no_box, self.alpha(progress))
        prob = resize_logits(output.prob[len(batch.label_l) :], no_box.shape[-2:])
        return PseudoLabels(output.label, output.reliable, prob.amax(dim=1))

    def teach_mixed(self, batch: Batch, box: Tensor, alpha: float) -> TeacherOutput:
        """Return the outputs of the teacher for labeled images, and for unlabeled ones mixed by a box each.

        Args:
            batch: batch with a weak view.
            box: (B_u, H, W) bool, True in the box of an image.
            alpha: share of unreliable pixels.
        """
        (image, valid), labeled = batch.weak, len(batch.label_l)
        images, valid = torch.cat([batch.image_l, mixed(image, box)]), mixed(valid, box)
        with evaluating(self.teacher):
            whole = self.teacher(image).logits
        logits, embedding = self.teacher(images)
        logits, size = logits.float(), image.shape[-2:]
        label = mixed(resize_logits(whole.float(), size).argmax(dim=1), box)
        doubt = entropy(resize_logits(logits[labeled:], size)).squeeze(1).where(valid, torch.inf)
        batch_doubt = gathered(doubt) if self.config.quantile == "global" else doubt
        lowest, reliable = (doubt < bound for bound in quantiles(batch_doubt, (alpha, 1 - alpha)).unbind())
        return TeacherOutput(images, logits.softmax(dim=1), embedding, label, valid, lowest, reliable)

    def supervised(self, maps: list[Tensor], label: Tensor) -> Tensor:
        """Return the loss on labeled images, Eq. (2).

        Args:
            maps: (B, K, h, w) logits, main and auxiliary.
            label: (B, H, W) int64.
        """
        c = self.config
        size = label.shape[-2:]
        losses: list[Tensor] = [
            self.label_loss(resize_logits(logits, size), label, c.ohem_threshold, c.ohem_min_kept)
            for logits in maps
        ]
        main, *others = losses
        return main + c.auxiliary_weight * others[0] if others else main

    def unsupervised(self, logits: Tensor, output: TeacherOutput) -> Tensor:
        """Return the loss on reliable pseudo-labels, Eq. (3), with its weight, Eq. (8).

        Args:
            logits: (B_u, K, h, w) float, logits of the student.
            output: outputs of the teacher.
        """
        label = output.label.where(output.reliable, IGNORE)
        loss = cross_entropy(resize_logits(logits, label.shape[-2:]), label)
        pixels = output.valid.sum() if self.config.weight_over == "valid" else output.valid.numel()
        return self.config.eta * loss * pixels / output.reliable.sum().clamp(min=1)

    def taught(self, label_l: Tensor, output: TeacherOutput) -> TeacherTargets:
        """Return labels and teacher outputs in the form that the contrastive loss needs.

        Args:
            label_l: (B_l, H, W) int64.
            output: outputs of the teacher.
        """
        c, size = self.config.contrast, output.prob.shape[-2:]
        label_u = output.label.where(output.reliable if c.anchors == "reliable" else output.lowest, IGNORE)
        unreliable = output.valid & ~output.reliable
        negative = {"unreliable": unreliable, "reliable": output.lowest, "all": output.valid}[c.negatives]
        label = on_grid(torch.cat([label_l, label_u]), size)
        return TeacherTargets(output.embedding, output.prob, label, on_grid(negative, size))

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """Return `sup`, if it has a step, and `semi` for the rest of the run.

        Raises:
            RecipeError: no step is left for `semi`.
        """
        first = self.config.warm_start_steps
        if first >= steps:
            raise RecipeError(
                f"method.warm_start_steps is {first}, expected less than the {steps} steps of the run: "
                f"shorten it, or give --steps N, which keeps its share"
            )
        phases = (Phase("sup", first, unlabeled=0, untrained=("teacher",)), Phase("semi", steps - first))
        return tuple(phase for phase in phases if phase.steps)

    def start_phase(self, progress: Progress) -> None:
        """Start the teacher from the student when self-training begins."""
        if progress.phase == "semi":
            copy_state(self.student, self.teacher)

    def after_step(self, progress: Progress) -> None:
        """Update the teacher."""
        if progress.phase != "semi":
            return
        c = self.config
        decay = min(c.ema_decay, 1 - 1 / (progress.phase_step + 1))
        update_teacher(self.teacher, self.student, decay, with_buffers=c.teacher_batch_norm == "ema")

    def train(self, mode: bool = True) -> U2pl:
        """Set the mode; the teacher's BatchNorm tracks its own statistics, or averages the student's."""
        super().train(mode)
        if self.config.teacher_batch_norm == "ema":
            self.teacher.eval()
        return self

    def optimizers(self) -> list[Optimizer]:
        """Return one optimizer, with a separate learning rate for the encoder."""
        optimizer = self.config.optimizer
        groups = optimizer.groups(self.student)
        return [optimizer.build(groups + ([] if self.auxiliary is None else [(self.auxiliary, 1.0)]))]

    def deployable(self, weights: str | None = None) -> Student:
        """Return a copy of the student or of the teacher, which the authors and the paper's recipes score."""
        return Student(self.copy_of(weights))


def auxiliary_head(in_channels: int, network: NetworkConfig) -> nn.Sequential:
    """Return the head on the encoder's last stage but one: 3x3 convolution, channel dropout, classes."""
    width = network.decoder.decoder_channels
    return nn.Sequential(
        conv_bn_relu(in_channels, width, 3), nn.Dropout2d(0.1), nn.Conv2d(width, network.num_classes, 1)
    )
