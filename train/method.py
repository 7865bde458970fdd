"""Interface between the methods and the engine: batches, phases, losses and hooks."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from zoo.errors import RecipeError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from zoo.models.classifier import ImageClassifier
    from zoo.models.deployable import Deployable, Localized, Student


DRAWS = 12
"""Random numbers for each unlabeled image: three boxes need four each."""
DRAW_RANGE = 2**24
"""Range of `Batch.draws_u`: the number of values that a float32 distinguishes in [0, 1)."""


class Batch(NamedTuple):
    """Input of one step, at the training size. Fields that the phase does not request are None.

    If a phase takes several streams of a kind, they are concatenated along the first dimension, ready for
    `chunk`.
    """

    image_l: Tensor
    """(B, 3, H, W) labeled, weak view; uint8 from the loader, normalized float in a method."""
    label_l: Tensor
    """(B, H, W) int64, `IGNORE` where unknown or padded."""
    valid_l: Tensor
    """(B, H, W) bool, False in padding of the labeled view, which no loss or statistic counts.

    Void pixels of the mask are `IGNORE` but valid: some papers use them (ELN).
    """
    image_u: Tensor | None = None
    """(B, 3, H, W) unlabeled, weak view."""
    valid_u: Tensor | None = None
    """(B, H, W) bool, False in padding of the unlabeled views."""
    image_u_s: Tensor | None = None
    """(V * B, 3, H, W) unlabeled, V strong views of the same pixels, view by view."""
    draws_u: Tensor | None = None
    """(B, `DRAWS`) int32 in [0, `DRAW_RANGE`), random numbers of each unlabeled image for mixing masks.

    Integers are not affected by mixed precision. They depend on the seed and the image's position, as its
    views do, so that processes draw different numbers.
    """
    tags_l: Tensor | None = None
    """(B, K) bool, whether each class is present in the whole mask of a labeled image, before resizing."""
    draws_l: Tensor | None = None
    """(B, `DRAWS`) int32 in [0, `DRAW_RANGE`), as `draws_u`, for the first stream of labeled images, if these
    are mixed (`zoo.train.blocks.mixing.with_mixed_labels`)."""

    @property
    def images(self) -> int:
        """Return the number of different images; two views of an image count once."""
        return len(self.image_l) + (0 if self.image_u is None else len(self.image_u))

    @property
    def weak(self) -> tuple[Tensor, Tensor]:
        """Return the weak unlabeled view and `valid_u`; the batch must have them."""
        assert self.image_u is not None
        assert self.valid_u is not None
        return self.image_u, self.valid_u

    @property
    def draws(self) -> Tensor:
        """Return `draws_u` as float32 in [0, 1); the batch must have unlabeled images."""
        assert self.draws_u is not None
        return self.draws_u.float() / DRAW_RANGE

    @property
    def labeled_draws(self) -> Tensor:
        """Return `draws_l` of a batch whose labeled images are mixed as float32 in [0, 1)."""
        assert self.draws_l is not None
        return self.draws_l.float() / DRAW_RANGE

    @property
    def strong(self) -> Tensor:
        """Return the strong unlabeled views of a batch that has them."""
        assert self.image_u_s is not None
        return self.image_u_s


LOCALIZER = "localizer"
"""Network of `Method.with_localizer` in `Phase.untrained`."""


class Phase(NamedTuple):
    """A part of training in which a method returns the same loss terms."""

    name: str
    steps: int
    labeled: int = 1
    """Independent streams of labeled images, each of `batch_l` (s4GAN samples its real pairs separately)."""
    unlabeled: int = 1
    """Independent streams of unlabeled images, each of `batch_u` (RRN mixes two); 0 for none."""
    strong: int = 0
    """Number of strong views of each unlabeled image, which differ in their random numbers only."""
    tags: bool = False
    """Whether labeled images come with their classes, which requires views of the whole image."""
    untrained: tuple[str, ...] = ()
    """Members of the method's `weights` that are not trained yet, such as a teacher before it starts, and
    `LOCALIZER`."""


class PseudoLabels(NamedTuple):
    """Pseudo-labels of unlabeled images, and the filter that a method applies to them."""

    label: Tensor
    """(B, H, W) int64, predicted classes."""
    keep: Tensor
    """(B, H, W) bool, whether a pixel is learned."""
    confidence: Tensor
    """(B, H, W) float, probability of the predicted class."""


class Progress(NamedTuple):
    """Progress of training, in optimizer steps."""

    step: int
    """Steps taken before this one."""
    steps: int
    """Steps of the whole run."""
    phase: str
    """Name of the current phase."""
    phase_step: int
    """Steps taken in this phase before this one."""


@dataclass(frozen=True)
class ScalesWithRun:
    """Mark of a setting that counts steps, and is scaled with the length of the run.

    Args:
        at_least: smallest scaled value; a setting below it keeps its value.
    """

    at_least: int = 1


@dataclass(frozen=True)
class LabelsOnly:
    """Marks a setting that counts the steps of a phase that learns from labels alone.

    A run that starts from a network trained on labels alone needs no such phase.
    """


Steps = Annotated[int, Field(ge=0), ScalesWithRun()]
"""A number of steps that scales with the length of the run."""
LabelsOnlySteps = Annotated[int, Field(ge=0), ScalesWithRun(), LabelsOnly()]
"""The number of steps of a phase that learns from labels alone; it scales with the length of the run."""

AnyConfig = TypeVar("AnyConfig", bound=BaseModel)


def scaled(config: AnyConfig, before: int, after: int) -> AnyConfig:
    """Return settings, including nested ones, scaled from a run of `before` steps to one of `after`."""
    changes: dict[str, object] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            changes[name] = scaled(value, before, after)
        for mark in field.metadata:
            if isinstance(mark, ScalesWithRun):
                changes[name] = max(min(value, mark.at_least), round(value * after / before))
    return config.model_copy(update=changes)


def labels_only_settings(config: BaseModel) -> dict[str, int]:
    """Return the settings of a method that count steps on labels alone, with their values."""
    fields = type(config).model_fields.items()
    return {
        name: getattr(config, name)
        for name, field in fields
        if any(isinstance(mark, LabelsOnly) for mark in field.metadata)
    }


class MethodConfig(BaseModel):
    """Base of the methods' settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    name: str
    """Name of the method."""

    def at_size(self, imgsz: tuple[int, int]) -> MethodConfig:  # noqa: ARG002
        """Return the settings for training images of this (height, width); by default the same."""
        return self


class Method(nn.Module, ABC):
    """One paper: its networks, its losses, its optimizers.

    A method never calls backward, never logs and never asks which device it is on.
    """

    weights: ClassVar[tuple[str, ...]] = ("student",)
    """Choices of `deployable` and of the recipe's `score`."""
    of_a_batch: ClassVar[str] = ""
    """Loss terms that depend on the batch's composition and are not means over images; may be empty."""

    @property
    def default_weights(self) -> str:
        """Return the default of `weights` for bundles: the first."""
        return self.weights[0]

    def scored(self, wanted: str | None, phase: Phase) -> str:
        """Return which of `weights` is scored and kept after a step of a phase.

        It is `wanted`, or, as long as that is untrained, the first that is trained.

        Args:
            wanted: one of `weights`; None for the default.
            phase: phase of the step.
        """
        wanted = wanted or self.default_weights
        trained = (name for name in self.weights if name not in phase.untrained)
        return next(trained) if wanted in phase.untrained else wanted

    def copy_of(self, weights: str | None) -> Any:
        """Return a copy of one of the networks in `weights`, which is an attribute of the same name.

        Args:
            weights: one of `weights`; None for the default.

        Raises:
            KeyError: another name.
        """
        name = weights or self.default_weights
        if name not in self.weights:
            raise KeyError(name)
        return copy.deepcopy(getattr(self, name))

    @abstractmethod
    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return the paper's loss terms by name, weighted; their sum is minimized."""

    @abstractmethod
    def optimizers(self) -> list[Optimizer]:
        """Return one optimizer for each group of networks that the paper updates together."""

    @abstractmethod
    def deployable(self, weights: str | None = None) -> Deployable | ImageClassifier:
        """Return a copy of the model to keep after training, for one of `weights`; None for the default."""

    def with_localizer(self, student: Student) -> Localized | None:  # noqa: ARG002
        """Return a model with a copy of the network that localizes its errors; None, the default, without.

        Args:
            student: model from `deployable`, which is used in place.
        """
        return None

    def pseudo_labels(self, batch: Batch, progress: Progress) -> PseudoLabels | None:  # noqa: ARG002
        """Return the pseudo-labels of weak unlabeled views, unmixed, as training makes and filters them.

        None, the default, if the method makes or filters none. It is called without gradients, and its
        changes to running statistics are undone.

        Args:
            batch: labeled images and one stream of unlabeled ones in a weak view, without draws.
            progress: progress of the step that was just taken.
        """
        return None

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """Return the phases of a run of `steps` steps, in order, whose steps add up to `steps`."""
        return (Phase("train", steps),)

    def start_phase(self, progress: Progress) -> None:
        """Run once before the first step of a phase; does nothing by default."""

    def after_step(self, progress: Progress) -> None:
        """Run after the optimizers' step, e.g. to update a teacher; does nothing by default."""


def phase_at(step: int, phases: tuple[Phase, ...]) -> tuple[Phase, int]:
    """Return the phase of `step` (0-based), and the number of steps in that phase before it.

    Raises:
        RecipeError: a step beyond the last phase.
    """
    start = 0
    for phase in phases:
        if step < start + phase.steps:
            return phase, step - start
        start += phase.steps
    raise RecipeError(f"step {step} is beyond the {start} steps of the run")


def progress_at(step: int, phases: tuple[Phase, ...]) -> Progress:
    """Return the progress before `step` (0-based) of a run with these phases."""
    phase, phase_step = phase_at(step, phases)
    return Progress(step, sum(each.steps for each in phases), phase.name, phase_step)
