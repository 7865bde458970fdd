"""The contract between the methods and the engine: what a step gets, what a method returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict
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
    image_u: Tensor | None = None
    """(B, 3, H, W) unlabeled, weak view."""
    valid_u: Tensor | None = None
    """(B, H, W) bool, False where the unlabeled views are padding."""
    image_u_s: Tensor | None = None
    """(B, 3, H, W) unlabeled, strong view of the same pixels."""
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
        """Return the strong unlabeled view of a batch that has it."""
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
    strong: bool = False
    """Whether the unlabeled images come with a strong view."""
    tags: bool = False
    """Whether the labeled images come with the classes they show; then the whole image must be seen."""


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


class MethodConfig(BaseModel):
    """Base of the methods' settings; a field that ends in `_steps` is scaled when a run is shortened."""

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
    """The choices of `deployable`."""
    of_a_batch: ClassVar[str] = ""
    """What no mean over images is, but depends on which of them share a batch; empty if nothing does."""

    @property
    def default_weights(self) -> str:
        """Return which of `weights` a bundle holds by default: the first."""
        return self.weights[0]

    @abstractmethod
    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return the paper's loss terms by name, weighted; their sum is minimised."""

    @abstractmethod
    def optimizers(self) -> list[Optimizer]:
        """Return one optimiser for each group of networks that the paper updates together."""

    @abstractmethod
    def deployable(self, weights: str | None = None) -> Deployable | ImageClassifier:
        """Return a copy of what is kept after training; one of `weights`, None for the default."""

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
