"""Pixels of each class in labeled images: weights of classes, and sampling of rare ones."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zoo.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zoo.data.source import Source
    from zoo.train.recipe.schema import Recipe


def count_pixels(source: Source, ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of pixels of each class in each mask, (images, K); `IGNORE` is not a class."""

    def count(id_: str) -> NDArray[np.int64]:
        counts = np.bincount(source.read_mask(id_).ravel(), minlength=256)
        return counts[: len(source.classes)].astype(np.int64)

    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(count, ids)))


def class_weights_of(recipe: Recipe, source: Source, labeled: Sequence[str]) -> ClassWeights | None:
    """Return the weights of classes of a new run, measured on its labeled images; None if it has none.

    Raises:
        RecipeError: no pixel has a class.
    """
    if recipe.class_weights == "none":
        return None
    pixels = count_pixels(source, labeled)
    values = tuple(measured_weights(recipe, pixels).astype(np.float32).tolist())
    weighting = recipe.class_weights if isinstance(recipe.class_weights, str) else "list"
    counts = tuple(pixels.sum(axis=0).tolist())
    return ClassWeights(source.classes.names, values, counts, f"{weighting}, {len(labeled)} labeled images")


class ClassWeights(NamedTuple):
    """Weights of classes and where they come from."""

    names: tuple[str, ...]
    values: tuple[float, ...]
    pixels: tuple[int, ...]
    """Labeled pixels of each class."""
    source: str
    """Kind of the weights, and the number of labeled images."""

    def __str__(self) -> str:
        """Return one line with the source and all weights."""
        pairs = zip(self.names, self.values, strict=True)
        return f"{self.source}: {', '.join(f'{name} {value:.4g}' for name, value in pairs)}"

    def record(self) -> dict[str, Any]:
        """Return what a run keeps of them."""
        rows = zip(self.names, self.values, self.pixels, strict=True)
        classes = {name: {"weight": value, "pixels": pixels} for name, value, pixels in rows}
        return {"source": self.source, "classes": classes}


def _check_any(pixels: NDArray[np.int64], setting: str) -> None:
    """Raise if there is nothing to measure.

    Raises:
        RecipeError: no pixel has a class.
    """
    if not pixels.any():
        raise RecipeError(
            f"{setting}: got {len(pixels)} labeled images without a labeled pixel, expected some to measure: "
            f"check the masks, or leave the setting out"
        )


def measured_weights(recipe: Recipe, pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the weight of each class, (K,): as the recipe lists them, or from the pixels of labeled images.

    A class without a labeled pixel has 1, which no loss uses.

    Args:
        recipe: recipe with weights of classes.
        pixels: (images, K), from `count_pixels`.

    Raises:
        RecipeError: no pixel has a class.
    """
    if not isinstance(recipe.class_weights, str):
        return np.array(recipe.class_weights, dtype=np.float64)
    _check_any(pixels, f"class_weights {recipe.class_weights}")
    present = pixels.sum(axis=0) > 0
    weights = np.ones(pixels.shape[1])
    if recipe.class_weights == "inverse":
        weights[present] = inverse(pixels[:, present])
    elif recipe.class_weights == "median_frequency":
        weights[present] = median_frequency(pixels[:, present])
    else:
        weights[present] = effective_number(pixels[:, present], recipe.effective_beta)
    return weights


def inverse(pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return 1 / (K f), f the share of all pixels that a class has.

    Args:
        pixels: (images, K), at least one of each class.
    """
    count = pixels.sum(axis=0)
    weights: NDArray[np.float64] = count.sum() / (len(count) * count)
    return weights


def median_frequency(pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return median(f) / f, f the share of a class in the images that have it (Eigen & Fergus, ICCV 2015).

    Args:
        pixels: (images, K), at least one of each class.
    """
    shown = ((pixels > 0) * pixels.sum(axis=1, keepdims=True)).sum(axis=0)
    frequency = pixels.sum(axis=0) / shown
    weights: NDArray[np.float64] = np.median(frequency) / frequency
    return weights


def effective_number(pixels: NDArray[np.int64], beta: float | None) -> NDArray[np.float64]:
    """Return weights in proportion to (1 - beta) / (1 - beta^n), whose mean is 1 (Cui et al., CVPR 2019).

    n is the number of pixels of a class. The paper counts images: at its beta, 0.9999, all classes of some
    10^5 pixels have the same weight.

    Args:
        pixels: (images, K), at least one of each class.
        beta: in [0, 1); None for 1 - 1/N, N the mean number of pixels of a class.
    """
    count = pixels.sum(axis=0)
    beta = 1 - 1 / count.mean() if beta is None else beta
    effective = -np.expm1(count * math.log(beta)) if beta else np.ones(len(count))  # 1 - beta^n
    weights: NDArray[np.float64] = len(count) / effective / (1 / effective).sum()
    return weights


class RareClasses:
    """Draws a class, the rarer the more often, and one of the images that show it (DAFormer, Eq. 6 and 7).

    Args:
        pixels: (images, K), from `count_pixels`.
        temperature: T of the paper.

    Raises:
        RecipeError: no pixel has a class.
    """

    def __init__(self, pixels: NDArray[np.int64], temperature: float) -> None:
        _check_any(pixels, "data.rare_classes")
        count = pixels.sum(axis=0)
        score = np.where(count > 0, (1 - count / count.sum()) / temperature, -np.inf)
        weight = np.exp(score - score.max())
        self.probability: NDArray[np.float64] = weight / weight.sum()
        self.images = [np.flatnonzero(of_class) for of_class in pixels.T]

    def draw(self, random: np.random.Generator) -> tuple[int, int]:
        """Return the index of an image, and the class that it is drawn for."""
        label = int(random.choice(len(self.probability), p=self.probability))
        return int(random.choice(self.images[label])), label
