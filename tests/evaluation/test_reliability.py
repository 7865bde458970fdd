from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from zoo.evaluation.metrics import ConfusionMatrix
from zoo.evaluation.reliability import (
    Counts,
    aurc,
    auroc,
    brier,
    calibration_error,
    kept_share,
    metrics,
    metrics_with_intervals,
    risk_at,
)
from zoo.evaluation.scored import BINS, CENTERS, bin_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = ("a", "b", "c", "d")
K = len(NAMES)


def scored(seed: int, pixels: int = 300) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return random labels, predictions and scores, which lie at the centers of bins and often tie."""
    generator = np.random.default_rng(seed)
    label, prediction = generator.integers(0, K, (2, pixels))
    score = CENTERS[generator.choice(BINS, 40, replace=False)][generator.integers(0, 40, pixels)]
    sure = score > generator.random(pixels)
    return label, np.where(sure, label, prediction), score.astype(np.float32)


def hist_of(seed: int) -> NDArray[np.float64]:
    label, prediction, score = scored(seed)
    return np.bincount(2 * bin_of(score) + (label == prediction), minlength=2 * BINS).reshape(BINS, 2) * 1.0


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_and_brier_score_are_sums_over_pixels(seed: int) -> None:
    label, prediction, score = scored(seed)
    right = label == prediction
    bins = np.minimum((score * 15).astype(int), 14)
    errors = [abs((score - right)[bins == each].sum()) for each in range(15)]
    assert calibration_error(hist_of(seed), CENTERS) == pytest.approx(sum(errors) / len(label), rel=1e-5)
    assert brier(hist_of(seed), CENTERS) == pytest.approx(np.mean((score - right) ** 2), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_auroc_compares_each_right_with_each_wrong_pixel(seed: int) -> None:
    label, prediction, score = scored(seed)
    right = label == prediction
    pairs = [(high > low) + (high == low) / 2 for high, low in product(score[right], score[~right])]
    assert auroc(hist_of(seed)) == pytest.approx(np.mean(pairs))


def test_aurc_is_the_mean_risk_over_fine_coverages() -> None:
    hist = hist_of(0)
    fine = [risk_at(hist, (step + 0.5) / 4000) for step in range(4000)]
    assert aurc(hist) == pytest.approx(np.mean(fine), rel=1e-3)


def test_aurc_by_hand() -> None:
    hist = np.zeros((BINS, 2))
    hist[900, 1], hist[500, 0] = 2, 1  # risk 0 up to 2 pixels, then (n - 2) / n up to 3
    assert aurc(hist) == pytest.approx((1 - 2 * np.log(3 / 2)) / 3)
    assert (auroc(hist), risk_at(hist, 2 / 3), risk_at(hist, 1)) == (1, 0, pytest.approx(1 / 3))
    assert np.isnan(auroc(hist * [0, 1]))


def test_a_coverage_keeps_a_share_of_the_bin_that_it_cuts() -> None:
    hist = np.zeros((BINS, 2))
    hist[1000], hist[10] = (0, 6), (2, 2)
    kept = kept_share(hist, 0.8)
    assert (kept[1000], kept[10]) == (1, pytest.approx(0.5))
    assert risk_at(hist, 0.8) == pytest.approx(1 / 8)


def test_the_miou_at_full_coverage_is_that_of_all_pixels_and_kept_pixels_have_the_highest_scores() -> None:
    label, prediction, score = scored(1)
    counts = Counts(K)
    for half in (slice(0, 150), slice(150, 300)):
        counts.update(label[half], prediction[half], score[half])
    pooled = counts.pooled()
    found = metrics(pooled, pooled.total, CENTERS)
    surest = np.argsort(-score, kind="stable")

    def miou(kept: NDArray[np.int64]) -> float:
        matrix = ConfusionMatrix(K)
        matrix.update(torch.from_numpy(label[kept]), torch.from_numpy(prediction[kept]))
        return matrix.miou()

    assert found["miou_at_100"] == pytest.approx(miou(surest))
    assert found["miou_at_80"] == pytest.approx(miou(surest[:240]), abs=0.01)  # ties at the cut
    assert found["gain_at_80"] == pytest.approx(found["miou_at_80"] - found["miou_at_100"])
    assert found["miou_at_80"] > found["miou_at_90"] > found["miou_at_100"]


def test_a_class_of_which_nothing_is_kept_stays_in_the_mean() -> None:
    counts = Counts(K)
    label, prediction = np.repeat([0, 1, 2], [60, 35, 5]), np.repeat([0, 1], [60, 40])
    counts.update(label, prediction, np.where(label == 2, 0.3, 0.9).astype(np.float32))
    found = metrics(counts.pooled(), counts.pooled().total, CENTERS)
    assert found["miou_at_100"] == pytest.approx((1 + 35 / 40 + 0) / 3)
    assert found["miou_at_95"] == pytest.approx((1 + 1 + 0) / 3)
    assert found["gain_at_95"] == pytest.approx(5 / 40 / 3)


def test_the_bootstrap_draws_images_not_pixels() -> None:
    one, same = Counts(K), Counts(K)
    label, prediction, score = scored(0)
    for _ in range(5):
        same.update(label, prediction, score)
    found = metrics_with_intervals(same.pooled(), CENTERS, NAMES)["ece"]
    assert found["low"] == pytest.approx(found["value"])
    assert found["high"] == pytest.approx(found["value"])
    for seed in range(5):
        one.update(*scored(seed))
    found = metrics_with_intervals(one.pooled(), CENTERS, NAMES)["ece"]
    assert found["low"] < found["value"] < found["high"]


def test_classes_that_are_not_predicted_have_no_error_and_a_diagram_lists_filled_bins() -> None:
    counts = Counts(K)
    counts.update(np.array([0, 1, 1]), np.array([0, 0, 1]), np.array([1, 1, 0.5], np.float32))
    found = metrics_with_intervals(counts.pooled(), CENTERS, NAMES)
    assert [found["ece_by_class"][name] for name in "cd"] == [None, None]
    assert [found["ece_by_class"][name] for name in "ab"] == pytest.approx([0.5, 0.5], abs=2e-3)
    assert found["class_ece"]["value"] == pytest.approx(0.5, abs=2e-3)
    assert [(round(each["share"], 3), each["right"]) for each in found["diagram"]] == [
        (0.333, 1),
        (0.667, 0.5),
    ]
