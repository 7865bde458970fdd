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
    from zoo.data.partition import Partition
    from zoo.data.source import Source
    from zoo.train.method import Method, Progress
    from zoo.train.recipe.schema import Recipe


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
        phase, _ = phase_at(progress.step, method.phases(self.recipe.steps))
        weights = method.scored(self.recipe.score, phase)
        self.metrics = score(predictor_of(method, self.recipe, self.source, weights), self.source)
        found = {f"val/{key}": self.metrics[key] for key in figures_of(self.metrics).overall}
        return found if self.quality is None else found | self.quality(method, progress)


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
