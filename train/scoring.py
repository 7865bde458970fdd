"""What a method is worth while it is trained: its figures on images with masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.bundle import BundleConfig
from zoo.evaluate import evaluate, evaluate_tags
from zoo.figures import figures_of
from zoo.models.classifier import ImageClassifier
from zoo.predictors.eager import EagerPredictor
from zoo.predictors.tags import TagPredictor

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.data.source import Source
    from zoo.train.method import Method
    from zoo.train.recipe import Recipe


def validation(recipe: Recipe, source: Source) -> Callable[[Method], dict[str, float]]:
    """Return a function that gives the figures of a method on `val`, the main one first."""

    def validate(method: Method) -> dict[str, float]:
        metrics = score(predictor_of(method, recipe, source), source)
        return {f"val/{key}": metrics[key] for key in figures_of(metrics).overall}

    return validate


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
        preprocessing=recipe.data.preprocessing,
    )
    device = str(next(method.parameters()).device)
    if isinstance(deployable, ImageClassifier):
        return TagPredictor(deployable, config, device)
    return EagerPredictor(deployable, config, device)
