"""The contract between the methods and the engine: what a step gets, what a method returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from zoo.errors import RecipeError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from zoo.models.classifier import ImageClassifier
    from zoo.models.deployable import Deployable


DRAWS = 12
"""Random numbers for each unlabeled image: three boxes take four each."""
DRAW_RANGE = 2**24
"""Of `Batch.draws_u`: what a float32 tells apart in [0, 1)."""


class Batch(NamedTuple):
    """What one step sees; all of one training size. What the phase does not ask for is None.

    A phase that takes several streams of a kind finds them one after the other along the first dimension,
    ready for `chunk`.
    """

    image_l: Tensor
    """(B, 3, H, W) labeled, weak view; uint8 from the loader, normalised float in a method."""
    label_l: Tensor
    """(B, H, W) int64, `IGNORE` where unknown or padded."""
    valid_l: Tensor
    """(B, H, W) bool, False where the labeled view is padding, which counts in no loss and no statistic.

    Void pixels of the mask are `IGNORE` and valid: a paper may give them a meaning (ELN).
    """
    image_u: Tensor | None = None
    """(B, 3, H, W) unlabeled, weak view."""
    valid_u: Tensor | None = None
    """(B, H, W) bool, False where the unlabeled views are padding."""
    image_u_s: Tensor | None = None
    """(V * B, 3, H, W) unlabeled, V strong views of the same pixels, view by view."""
    draws_u: Tensor | None = None
    """(B, `DRAWS`) int32 in [0, `DRAW_RANGE`), drawn for each unlabeled image, for masks of mixed images.

    Whole numbers, which mixed precision leaves alone. They follow from the seed and the image's position, as
    its views do: other processes draw others.
    """
    tags_l: Tensor | None = None
    """(B, K) bool, the classes that occur in the whole mask of each labeled image, before any resize."""

    @property
    def images(self) -> int:
        """Return how many different images there are; two views of one count once."""
        return len(self.image_l) + (0 if self.image_u is None else len(self.image_u))

    @property
    def weak(self) -> tuple[Tensor, Tensor]:
        """Return the weak unlabeled view and `valid_u` of a batch that has them."""
        assert self.image_u is not None
        assert self.valid_u is not None
        return self.image_u, self.valid_u

    @property
    def draws(self) -> Tensor:
        """Return `draws_u` of a batch that has unlabeled images as float32 in [0, 1)."""
        assert self.draws_u is not None
        return self.draws_u.float() / DRAW_RANGE

    @property
    def strong(self) -> Tensor:
        """Return the strong unlabeled views of a batch that has them."""
        assert self.image_u_s is not None
        return self.image_u_s


class Phase(NamedTuple):
    """A stretch of training in which a method returns the same terms."""

    name: str
    steps: int
    labeled: int = 1
    """Independent streams of labeled images, each of `batch_l` (s4GAN draws its real pairs apart)."""
    unlabeled: int = 1
    """Independent streams of unlabeled images, each of `batch_u` (RRN mixes two); 0: none."""
    strong: int = 0
    """Strong views of each unlabeled image, which differ in their random numbers alone."""
    tags: bool = False
    """Whether the labeled images come with the classes they show; then the whole image must be seen."""
    untrained: tuple[str, ...] = ()
    """Those of the method's `weights` that mean nothing yet: a teacher before it starts."""


class PseudoLabels(NamedTuple):
    """What a method would teach itself of unlabeled images, and which of it it believes."""

    label: Tensor
    """(B, H, W) int64, predicted classes."""
    keep: Tensor
    """(B, H, W) bool, where they are learned."""
    confidence: Tensor
    """(B, H, W) float, the probability of the predicted class."""


class Progress(NamedTuple):
    """Where training is, in optimiser steps."""

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
    """Marks a setting that counts steps: in a run of another length it keeps its share, if it is not 0.

    Args:
        at_least: where shares end; a setting below that keeps its value.
    """

    at_least: int = 1


Steps = Annotated[int, Field(ge=0), ScalesWithRun()]
"""A number of steps that is a share of the run."""

AnyConfig = TypeVar("AnyConfig", bound=BaseModel)


def scaled(config: AnyConfig, before: int, after: int) -> AnyConfig:
    """Return the settings, those of its tables too, of a run of `after` steps instead of `before`."""
    changes: dict[str, object] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            changes[name] = scaled(value, before, after)
        for mark in field.metadata:
            if isinstance(mark, ScalesWithRun):
                changes[name] = max(min(value, mark.at_least), round(value * after / before))
    return config.model_copy(update=changes)


class MethodConfig(BaseModel):
    """Base of the methods' settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    name: str
    """Of the method."""

    def at_size(self, imgsz: tuple[int, int]) -> MethodConfig:  # noqa: ARG002
        """Return the settings for training images of this (height, width); default: the same."""
        return self


class Method(nn.Module, ABC):
    """One paper: its networks, its losses, its optimisers.

    A method never calls backward, never logs and never asks which device it is on.
    """

    weights: ClassVar[tuple[str, ...]] = ("student",)
    """The choices of `deployable` and of the recipe's `score`."""
    of_a_batch: ClassVar[str] = ""
    """What no mean over images is, but depends on which of them share a batch; empty if nothing does."""

    @property
    def default_weights(self) -> str:
        """Return which of `weights` a bundle holds by default: the first."""
        return self.weights[0]

    def scored(self, wanted: str | None, phase: Phase) -> str:
        """Return which of `weights` is scored and kept after a step of a phase.

        It is the one wanted once that is trained, and until then the first that is.

        Args:
            wanted: one of `weights`, None for the default.
            phase: of the step.
        """
        wanted = wanted or self.default_weights
        trained = (name for name in self.weights if name not in phase.untrained)
        return next(trained) if wanted in phase.untrained else wanted

    @abstractmethod
    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return the paper's loss terms by name, weighted; their sum is minimised."""

    @abstractmethod
    def optimizers(self) -> list[Optimizer]:
        """Return one optimiser for each group of networks that the paper updates together."""

    @abstractmethod
    def deployable(self, weights: str | None = None) -> Deployable | ImageClassifier:
        """Return a copy of what is kept after training; one of `weights`, None for the default."""

    def pseudo_labels(self, batch: Batch, progress: Progress) -> PseudoLabels | None:  # noqa: ARG002
        """Return the pseudo-labels of weak unlabeled views, unmixed, as training would make and filter them.

        None, the default, where the method makes none, or filters none. It is called without gradient, and
        what it changes in running statistics is undone.

        Args:
            batch: labeled images and one stream of unlabeled ones in a weak view, without draws.
            progress: of the step that was just taken.
        """
        return None

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """Return the phases of a run of `steps`, in order; their steps add up to it."""
        return (Phase("train", steps),)

    def start_phase(self, progress: Progress) -> None:
        """Do what the paper does once before the first step of a phase; default: nothing."""

    def after_step(self, progress: Progress) -> None:
        """Do what the paper does after the optimisers' step; default: nothing."""


def phase_at(step: int, phases: tuple[Phase, ...]) -> tuple[Phase, int]:
    """Return the phase of `step` (0-based) of a run, and the steps taken in that phase before it.

    Raises:
        RecipeError: the phases end before `step`.
    """
    start = 0
    for phase in phases:
        if step < start + phase.steps:
            return phase, step - start
        start += phase.steps
    raise RecipeError(f"step {step} is beyond the {start} steps of the run")


def progress_at(step: int, phases: tuple[Phase, ...]) -> Progress:
    """Return the progress before `step` (0-based) of the run that these phases make up."""
    phase, phase_step = phase_at(step, phases)
    return Progress(step, sum(each.steps for each in phases), phase.name, phase_step)
