"""Metrics of image classifiers: F1 at a threshold, and average precision.

For class k, with the counts over all images of a split,

    F1_k = 2 true positives / (2 true positives + false positives + false negatives)
    AP_k = sum over the distinct probabilities p, from the highest, of
           (recall at p - recall at the next higher one) * precision at p

Precision and recall at p count a class as predicted if its probability is at least p, so that images of
equal probability are taken together; nothing is interpolated. A class that is in no image has no AP; if
it is not predicted either, it has no F1. Means leave such classes out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo.classes import Classes

THRESHOLD = 0.2
"""Probability above which a class counts as predicted, the threshold of the gate (s4GAN, section 3.3)."""


def tag_metrics(
    prob: NDArray[np.floating[Any]], tags: NDArray[np.bool_], classes: Classes, threshold: float = THRESHOLD
) -> dict[str, Any]:
    """Return `f1` and `map`, means over classes, `class_f1` and `class_ap` by name, ready for JSON.

    Args:
        prob: (N, K) float, probability that each class is present in the image.
        tags: (N, K) bool, whether each class is present.
        classes: names of the K classes.
        threshold: threshold of F1.
    """
    f1, precision = f1_scores(prob > threshold, tags), average_precision(prob, tags)
    return {
        "f1": _mean(f1),
        "map": _mean(precision),
        "threshold": threshold,
        "class_f1": dict(zip(classes.names, map(_number, f1), strict=True)),
        "class_ap": dict(zip(classes.names, map(_number, precision), strict=True)),
    }


def f1_scores(seen: NDArray[np.bool_], tags: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the F1 of each class, (K,), NaN for classes that are neither present nor predicted.

    Args:
        seen: (N, K) bool, whether each class is predicted.
        tags: (N, K) bool, whether each class is present.
    """
    counted = seen.sum(axis=0) + tags.sum(axis=0)  # 2 TP + FP + FN
    with np.errstate(invalid="ignore"):
        scores: NDArray[np.float64] = 2 * (seen & tags).sum(axis=0) / counted
    return scores


def average_precision(prob: NDArray[np.floating[Any]], tags: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the average precision of each class, (K,), NaN for classes that are in no image.

    Args:
        prob: (N, K) float, probability that each class is present in the image.
        tags: (N, K) bool, whether each class is present.
    """
    return np.array([_average_precision(*pair) for pair in zip(prob.T, tags.T, strict=True)])


def _average_precision(prob: NDArray[np.floating[Any]], shown: NDArray[np.bool_]) -> float:
    """Return the average precision of one class, from (N,) probabilities and its presence in each image."""
    if not shown.any():
        return math.nan
    order = np.argsort(-prob, kind="stable")
    hits = shown[order].cumsum()
    last = np.append(np.diff(prob[order]) != 0, True)  # last of the images with equal probability
    hits, called = hits[last], np.flatnonzero(last) + 1
    return float((np.diff(hits, prepend=0) * hits / called).sum() / shown.sum())


def _mean(values: NDArray[np.float64]) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
