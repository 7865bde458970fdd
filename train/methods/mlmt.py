"""MLMT, the multi-label mean teacher of s4GAN: an image classifier that gates a segmentation network.

Semi-Supervised Semantic Segmentation with High- and Low-level Consistency (Mittal, Tatarchenko & Brox, TPAMI
2019/2021), sections 3.2 and 3.3. https://arxiv.org/abs/1908.05724, code: sud0301/semisup-semseg. A classifier
learns the classes of labeled images and, on unlabeled images, agreement with the average of its weights. It
is trained separately; `zoo export MODEL --gate` then lets it remove classes from any segmentation model.

Symbols: G, H student and teacher, z^l `tags_l`, the classes in the full masks, lambda_cons `lambda_cons`.

As the code, against the paper: classes are independent, with binary cross entropy of sigmoids (the
paper: categorical cross entropy of a softmax, `classification`); consistency is 1 - cos of the logits of
unlabeled images (the paper: squared error of the predictions of all images); its weight is 0 in a burn-in of
ten epochs and rises over fifty (the paper: 1 from the start, `burn_in_steps`, `ramp_steps`); the averaging
starts as a plain mean of all students; the teacher's BatchNorm gathers its own statistics.

Departures from the authors' code (train_mlmt.py):
- learning rate and weight of the consistency change with the step, not with the epoch.
- the student sees a color-jittered, blurred copy of the teacher's view, with the same flip; theirs is flipped
  independently.
- the background is an ordinary class at its place in the labels; theirs is the last column.
- images with tags but no mask (`data.tags`) join the labeled stream and stay in the unlabeled one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import RecipeError
from zoo.models.classifier import ImageClassifier
from zoo.models.config import ClassifierConfig
from zoo.train.blocks.ema import teacher_of, update_teacher
from zoo.train.method import Batch, Method, MethodConfig, Phase, Progress, Steps
from zoo.train.optim import OptimizerConfig, Schedule

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from zoo.models.config import NetworkConfig


class MlmtOptimizerConfig(OptimizerConfig):
    """SGD from 0.03 down to 1e-4; one rate for the whole classifier, `encoder_lr_mult` is not used."""

    of_encoders: ClassVar[bool] = False
    name: Literal["adamw", "adam", "sgd"] = "sgd"
    lr: float = Field(0.03, gt=0)
    nesterov: bool = True
    schedule: Schedule = "cosine"
    floor: float = Field(1e-4 / 0.03, ge=0, le=1)


class MlmtConfig(MethodConfig):
    """Settings of MLMT; defaults are those of 1/8 of PASCAL VOC, where an epoch has 83 steps.

    Of the recipe's `network` only the encoder is used.
    """

    name: Literal["mlmt"] = "mlmt"
    imgsz: tuple[PositiveInt, PositiveInt] | None = None  # of the classifier; None: the training size
    classification: Literal["bce", "categorical"] = "bce"
    burn_in_steps: Steps = 830  # 10 epochs
    ramp_steps: Steps = 4_150  # 50 epochs
    lambda_cons: float = Field(1.0, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    optimizer: MlmtOptimizerConfig = MlmtOptimizerConfig()

    def at_size(self, imgsz: tuple[int, int]) -> MlmtConfig:
        """Return the settings with the size of the classifier filled in."""
        return self if self.imgsz else self.model_copy(update={"imgsz": imgsz})


ACTIVATION: dict[str, Literal["sigmoid", "softmax"]] = {"bce": "sigmoid", "categorical": "softmax"}


class Mlmt(Method):
    """Student and teacher classifiers; the teacher is the gate (section 3.3)."""

    weights: ClassVar[tuple[str, ...]] = ("teacher", "student")

    def __init__(self, config: MlmtConfig, network: NetworkConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.config = config
        classifier = ClassifierConfig(
            encoder=network.encoder,
            num_classes=network.num_classes,
            in_channels=network.in_channels,
            imgsz=config.imgsz or ClassifierConfig().imgsz,
            activation=ACTIVATION[config.classification],
        )
        self.student = ImageClassifier(classifier, pretrained=pretrained)
        self.teacher = teacher_of(self.student)
        self.teacher.renew_head()
        self.teacher.requires_grad_(False)

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return `cls` and `cons`, the two parts of Eq. (6)."""
        assert batch.tags_l is not None
        logits_l = self.student(batch.image_l).float()
        classification = CLASSIFICATION[self.config.classification](logits_l, batch.tags_l)
        student = self.student(batch.strong).float()
        with torch.no_grad():
            teacher = self.teacher(batch.weak[0]).float()
        consistency = cosine_distance(student, teacher)
        return {"cls": classification, "cons": self.consistency_weight(progress.step) * consistency}

    def consistency_weight(self, step: int) -> float:
        """Return the weight of the consistency at a step (0-based): 0 in the burn-in, then rising."""
        c = self.config
        done = step - c.burn_in_steps
        share = min(1.0, done / c.ramp_steps) if c.ramp_steps else 1.0
        return c.lambda_cons * share if done >= 0 else 0.0

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """Return one phase, as the teacher gathers its statistics from the first step.

        Raises:
            RecipeError: the burn-in leaves no step.
        """
        if self.config.burn_in_steps >= steps:
            raise RecipeError(
                f"method.burn_in_steps is {self.config.burn_in_steps}, expected less than the {steps} steps "
                f"of the run: shorten it, or give --steps N, which keeps its share"
            )
        return (Phase("train", steps, strong=1, tags=True),)

    def after_step(self, progress: Progress) -> None:
        """Update the teacher by the mean of all students so far, later by the exponential moving average."""
        taken = progress.step + 1
        update_teacher(self.teacher, self.student, min(1 - 1 / (taken + 1), self.config.ema_decay))

    def optimizers(self) -> list[Optimizer]:
        """Return one optimizer of the student at one rate."""
        return [self.config.optimizer.build([(self.student, 1.0)])]

    def deployable(self, weights: str | None = None) -> ImageClassifier:
        """Return a copy of the teacher or the student."""
        classifier: ImageClassifier = self.copy_of(weights)
        return classifier


def binary_cross_entropy(logits: Tensor, tags: Tensor) -> Tensor:
    """Return the binary cross entropy, averaged over images and classes.

    Args:
        logits: (B, K) float.
        tags: (B, K) bool, whether each class is in the image.
    """
    return F.binary_cross_entropy_with_logits(logits, tags.to(logits.dtype))


def categorical_cross_entropy(logits: Tensor, tags: Tensor) -> Tensor:
    """Return the cross entropy of the softmax against the multi-hot tags, first part of s4GAN's Eq. (6).

    An image counts once for each of its classes, as the equation has it; one without classes adds zero.

    Args:
        logits: (B, K) float.
        tags: (B, K) bool, whether each class is in the image.
    """
    return -(tags * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean cosine distance between two predictions of an image, in 0..2.

    Args:
        student: (B, K) float, logits of the student.
        teacher: (B, K) float, logits of the teacher, without gradient.
    """
    return 1 - F.cosine_similarity(student, teacher.detach(), dim=1).mean()


CLASSIFICATION = {"bce": binary_cross_entropy, "categorical": categorical_cross_entropy}
