"""Validation during training: metrics of a method on images with masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.bundle.bundle import BundleConfig
from zoo.evaluation.evaluate import evaluate, evaluate_tags
from zoo.evaluation.figures import figures_of
from zoo.models.classifier import ImageClassifier
from zoo.predictors.eager import EagerPredictor
from zoo.predictors.tags import TagPredictor
from zoo.train.loop.filter_quality import FilterQuality
from zoo.train.method import phase_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning_fabric import Fabric

    from zoo.data.partition import Partition
    from zoo.data.source import Source
    from zoo.train.method import Method, Progress
    from zoo.train.recipe.schema import Recipe

    Evaluation = Callable[[Method, Progress], dict[str, float]]
    """Returns the figures of a method after the step of this progress."""


class Validation:
    """Evaluates a method on `val`, and keeps the metrics of the last evaluation.

    Args:
        recipe: recipe of the run.
        source: source of the images.
        partition: partition whose unlabeled images with masks are used to measure pseudo-labels; None to not
            measure them.
    """

    def __init__(self, recipe: Recipe, source: Source, partition: Partition | None = None) -> None:
        self.recipe, self.source = recipe, source
        self.quality = None if partition is None else FilterQuality(recipe, source, partition)
        self.metrics: dict[str, Any] | None = None

    def __call__(self, method: Method, progress: Progress) -> dict[str, float]:
        """Return the metrics of a method after a step, the main metric first."""
        self.metrics = score(self.predictor(method, progress), self.source)
        found = {f"val/{key}": self.metrics[key] for key in figures_of(self.metrics).overall}
        return found if self.quality is None else found | self.quality(method, progress)

    def predictor(self, method: Method, progress: Progress) -> EagerPredictor | TagPredictor:
        """Return a predictor of the scored network after a step."""
        phase, _ = phase_at(progress.step, method.phases(self.recipe.steps))
        return predictor_of(method, self.recipe, self.source, method.scored(self.recipe.score, phase))

    def filter_by_class(self, method: Method, progress: Progress) -> dict[str, dict[str, float]] | None:
        """Return the figures of pseudo-labels by class after the last step, None where there are none.

        They are measured again where the last step was not evaluated in this process.
        """
        if self.quality is None:
            return None
        if self.quality.by_class is None:
            self.quality(method, progress)
        return self.quality.by_class


class Selection:
    """Chooses the step that is kept: the first whose main figure is better than all before.

    Args:
        fabric: tells all processes the figure of the first one, so that they save together.
        evaluate: returns the figures of a method after a step, the main one first.
    """

    def __init__(self, fabric: Fabric, evaluate: Evaluation) -> None:
        self.fabric, self.evaluate = fabric, evaluate
        self.best: dict[str, Any] | None = None
        """`step`, `figure` and `value` of the best step so far."""

    def __call__(self, method: Method, progress: Progress) -> dict[str, float]:
        """Return the figure of a method after the step of this progress, as `held_out/NAME`."""
        key, value = next(iter(self.evaluate(method, progress).items()))
        name, value = key.partition("/")[2], self.fabric.broadcast(value)
        if self.best is None or value > self.best["value"]:
            self.best = {"step": progress.step + 1, "figure": name, "value": value}
        return {f"held_out/{name}": value}

    def is_best(self, step: int) -> bool:
        """Return whether the step is the best so far."""
        return self.best is not None and self.best["step"] == step


def score(predictor: EagerPredictor | TagPredictor, source: Source) -> dict[str, Any]:
    """Return the metrics of a predictor on `val`."""
    if isinstance(predictor, TagPredictor):
        return evaluate_tags(predictor, source)
    return evaluate(predictor, source)


def predictor_of(
    method: Method, recipe: Recipe, source: Source, weights: str | None = None
) -> EagerPredictor | TagPredictor:
    """Return a predictor of the method's current model, for one of its `weights`; None for the default."""
    deployable = method.deployable(weights).eval()
    config = BundleConfig(
        deployable=deployable.config,
        method=recipe.method.name,
        names=source.classes.names,
        palette=source.classes.palette,
        preprocessing=recipe.preprocessing,
    )
    device = str(next(method.parameters()).device)
    if isinstance(deployable, ImageClassifier):
        return TagPredictor(deployable, config, device)
    return EagerPredictor(deployable, config, device)
