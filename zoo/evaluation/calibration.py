"""Calibration of scores on held-out labeled pixels: a temperature for softmax, else isotonic regression.

The temperature T minimizes the negative log-likelihood of softmax(logits / T) (Guo et al., ICML 2017).
Isotonic regression is the non-decreasing function of a score with the least squared error from being right
(Zadrozny & Elkan, KDD 2002), by pool-adjacent-violators on a histogram of the score. The score of ELN's
localizer is first shifted by the prior: its loss counts right and wrong pixels as if there were as many of
both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from zoo.bundle.reliability import FROM_LOGITS, LOCALIZER, Calibration, FittedOn, Reliability
from zoo.errors import BundleError, DatasetError
from zoo.evaluation.reliability import calibration_error, values_of
from zoo.evaluation.scored import BINS, CENTERS, bin_of, scored_images
from zoo.predictors.eager import EagerPredictor
from zoo.predictors.scores import max_softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from zoo.bundle.reliability import Score
    from zoo.data.source import Source, Split
    from zoo.evaluation.evaluate import Progress
    from zoo.predictors.base import Predictor

CHEAPEST: tuple[Score, ...] = "temperature", "softmax"
"""Scores that cost least, of which the default is chosen."""
HISTOGRAMS: tuple[Score, ...] = "softmax", "entropy", "agreement", "localizer"
"""Scores that are calibrated by isotonic regression of a histogram."""
SOURCES: dict[Score, str] = {
    "agreement": "only an ensemble of two networks has it, as zoo train rrn trains it",
    "localizer": "zoo calibrate RUN --keep-localizer keeps that of a run of eln",
}
"""Where the scores that only some models have come from."""
LOGIT_PIXELS = 200_000
"""Number of pixels, spread evenly over the images, that the temperature is fitted on."""
TEMPERATURES = 0.02, 50.0
"""Range of temperatures."""
HALVINGS = 40


def calibrate(
    predictor: Predictor,
    source: Source,
    split: Split = "val",
    score: Score | None = None,
    on_progress: Progress | None = None,
) -> Reliability:
    """Return the calibrations of all scores of a model, fitted on the labeled images of a split.

    Args:
        predictor: eager predictor of a bundle.
        source: source with the same classes, of images that the model was not trained on.
        split: split of the source.
        score: score of the output `reliability`; None for the one of `CHEAPEST` with the lower ECE when each
            half of the images is measured with what was fitted on the other.
        on_progress: called after every image.

    Raises:
        DatasetError: no labeled pixels, or classes that differ from the predictor's.
        BundleError: a score that the output cannot be computed from.
    """
    own = predictor.own_score if isinstance(predictor, EagerPredictor) else None
    if score is not None and score not in (*FROM_LOGITS, own):
        known = ", ".join((*FROM_LOGITS, own) if own else FROM_LOGITS)
        raise BundleError(
            f"got score {score}, which this model does not have, expected one of {known}: {SOURCES[score]}"
        )
    sample = max(1, LOGIT_PIXELS // max(1, len(source.ids(split))))
    generator = np.random.default_rng(0)
    counts: dict[Score, NDArray[np.int64]] = {}
    images: dict[str, str] = {}
    logits, labels = [], []
    for each in scored_images(predictor, source, split, on_progress=on_progress):
        images[each.id] = each.digest
        right = each.prediction == each.label
        for name in HISTOGRAMS:
            raw = each.score(Calibration(score=name))
            if raw is not None:
                counts[name] = counts.get(name, 0) + count_right(raw, right)
        kept = generator.permutation(len(each.label))[:sample]
        logits.append(each.logits.flatten(1)[:, each.place[kept]].T)
        labels.append(torch.from_numpy(each.label[kept]))
    pixels = int(counts["softmax"].sum())
    if not pixels:
        raise DatasetError(f"{source.spec} has no labeled pixels in split {split}: calibrate on other images")
    folds = cross_fitted_errors(*halves_of(logits), *halves_of(labels)) if score is None else {}
    temperature = fit_temperature(torch.cat(logits), torch.cat(labels))
    calibrations: dict[Score, Calibration] = {
        "temperature": Calibration(score="temperature", temperature=temperature)
    }
    for name, found in counts.items():
        shift = prior_shift(found) if name == LOCALIZER else 0.0
        knots = fit_isotonic(found, shifted(CENTERS, shift))
        calibrations[name] = Calibration(score=name, shift=shift, knots=knots)
    fitted = FittedOn(data=source.spec, split=split, images=images, pixels=pixels)
    best = min(CHEAPEST, key=lambda each: folds.get(each, 0.0))
    return Reliability(score=score or best, calibrations=calibrations, fitted=fitted, cross_fitted=folds)


def halves_of(values: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the values of every second image, and those of the others, each concatenated."""
    empty = values[0][:0]
    return torch.cat([empty, *values[::2]]), torch.cat([empty, *values[1::2]])


def cross_fitted_errors(
    first_logits: Tensor, second_logits: Tensor, first_labels: Tensor, second_labels: Tensor
) -> dict[Score, float]:
    """Return the ECE of the scores `CHEAPEST` on each half, fitted on the other one; the mean of both.

    Args:
        first_logits: (P, K) float.
        second_logits: (Q, K) float.
        first_labels: (P,) int64.
        second_labels: (Q,) int64.

    Returns:
        The error of each score; none if a half has no pixels.
    """
    halves = (first_logits, first_labels), (second_logits, second_labels)
    if not all(len(labels) for _, labels in halves):
        return {}
    errors: dict[Score, list[float]] = {name: [] for name in CHEAPEST}
    for fitted, measured in (halves, halves[::-1]):
        temperature = fit_temperature(*fitted)
        knots = fit_isotonic(histogram(*fitted))
        calibrations = (
            Calibration(score="temperature", temperature=temperature),
            Calibration(score="softmax", knots=knots),
        )
        for each in calibrations:
            found = histogram(*measured, temperature=each.temperature)
            errors[each.score].append(calibration_error(found.astype(float), values_of(each)))
    return {name: float(np.mean(each)) for name, each in errors.items()}


def histogram(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> NDArray[np.int64]:
    """Return (BINS, 2) counts of wrong and right pixels by bin of their largest softmax probability.

    Args:
        logits: (P, K) float.
        labels: (P,) int64.
        temperature: divisor of the logits.
    """
    right = (logits.argmax(dim=1) == labels).cpu().numpy()
    return count_right(max_softmax(logits, temperature).cpu().numpy(), right)


def count_right(score: NDArray[np.float32], right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return (BINS, 2) counts of wrong and right pixels by bin of their score.

    Args:
        score: (P,) float in 0..1.
        right: (P,) whether the prediction is right.
    """
    return np.bincount(2 * bin_of(score) + right, minlength=2 * BINS).reshape(BINS, 2)


def prior_shift(counts: NDArray[np.int64]) -> float:
    """Return the logarithm of the number of right pixels over that of wrong ones.

    ELN's loss weights the wrong pixels as if there were as many as right ones, so that the odds of its
    probability are too small by that ratio.

    Args:
        counts: (B, 2) counts of wrong and right pixels.
    """
    wrong, right = counts.sum(axis=0).clip(min=1)
    return float(np.log(right / wrong))


def shifted(probability: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    """Return probabilities whose logits are larger by a shift."""
    if shift == 0:
        return probability
    moved: NDArray[np.float64] = probability / (probability + (1 - probability) * np.exp(-shift))
    return moved


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature in `TEMPERATURES` that minimizes the negative log-likelihood.

    With b = 1 / T, NLL(b) = mean(logsumexp(b z) - b z_y) is convex: its derivative, mean(E[z] - z_y) under
    softmax(b z), is increasing, and its root is found by bisection.

    Args:
        logits: (P, K) float.
        labels: (P,) int64.
    """
    z = logits.float()
    right = z.gather(1, labels[:, None]).double().mean()
    low, high = (1 / each for each in reversed(TEMPERATURES))
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        expected = ((middle * z).softmax(dim=1) * z).sum(dim=1).double().mean()
        if expected > right:
            high = middle
        else:
            low = middle
    return float(1 / (low * high) ** 0.5)


def fit_isotonic(
    counts: NDArray[np.int64], centers: NDArray[np.float64] = CENTERS
) -> tuple[tuple[float, float], ...]:
    """Return the knots of isotonic regression: (score, share of right pixels), both non-decreasing.

    A block of pooled bins keeps its first and last bin, so that it stays flat.

    Args:
        counts: (B, 2) counts of wrong and right pixels by bin of the score.
        centers: (B,) score of each bin, increasing.
    """
    filled = np.flatnonzero(counts.sum(axis=1))
    values, sizes = pool_adjacent_violators(
        counts[filled, 1] / counts[filled].sum(axis=1), counts[filled].sum(axis=1)
    )
    at = centers[filled]
    knots: list[tuple[float, float]] = []
    start = 0
    for value, size in zip(values, sizes, strict=True):
        ends = dict.fromkeys((float(at[start]), float(at[start + size - 1])))
        knots += [(end, float(value)) for end in ends]
        start += size
    return tuple(knots)


def pool_adjacent_violators(
    means: NDArray[np.float64], weights: NDArray[np.int64]
) -> tuple[list[float], list[int]]:
    """Return value and length of the blocks of weighted isotonic regression.

    Args:
        means: (N,) values, in the order of their scores.
        weights: (N,) positive weights.
    """
    blocks: list[tuple[float, float, int]] = []  # sum of values, weight, length
    for mean, weight in zip(means.tolist(), weights.tolist(), strict=True):
        total, mass, length = mean * weight, float(weight), 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / mass:
            before = blocks.pop()
            total, mass, length = total + before[0], mass + before[1], length + before[2]
        blocks.append((total, mass, length))
    return [total / mass for total, mass, _ in blocks], [length for *_, length in blocks]
