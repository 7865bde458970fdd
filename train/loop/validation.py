"""What a method is worth while it is trained: its figures on images with masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.bundle.bundle import BundleConfig
from zoo.evaluation.evaluate import evaluate, evaluate_tags
from zoo.evaluation.figures import figures_of
from zoo.models.classifier import ImageClassifier
from zoo.predictors.eager import EagerPredictor
from zoo.predictors.tags import TagPredictor

if TYPE_CHECKING:
    from zoo.data.source import Source
    from zoo.train.method import Method
    from zoo.train.recipe.schema import Recipe


class Validation:
    """Evaluates methods on `val` and keeps the metrics of the last one.

    Args:
        recipe: of the run.
        source: of the images.
    """

    def __init__(self, recipe: Recipe, source: Source) -> None:
        self.recipe, self.source = recipe, source
        self.metrics: dict[str, Any] | None = None

    def __call__(self, method: Method) -> dict[str, float]:
        """Return the figures of a method, the main one first."""
        self.metrics = score(predictor_of(method, self.recipe, self.source), self.source)
        return {f"val/{key}": self.metrics[key] for key in figures_of(self.metrics).overall}


def score(predictor: EagerPredictor | TagPredictor, source: Source) -> dict[str, Any]:
    """Return the metrics of a predictor on `val`."""
    if isinstance(predictor, TagPredictor):
        return evaluate_tags(predictor, source)
    return evaluate(predictor, source)


def predictor_of(method: Method, recipe: Recipe, source: Source) -> EagerPredictor | TagPredictor:
    """Return the predictor of what the method would leave now."""
    deployable = method.deployable().eval()
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
