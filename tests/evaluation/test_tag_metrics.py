from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from zoo.classes import Classes
from zoo.evaluation.tag_metrics import average_precision, f1_scores, tag_metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray


def column(*values: float) -> NDArray[Any]:
    return np.array(values)[:, None]


def precision_and_recall(prob: NDArray[Any], tags: NDArray[Any], least: float) -> tuple[float, float]:
    """Return both for one class, called seen where its probability is at least `least`."""
    called = [bool(p >= least) for p in prob]
    hits = sum(c and bool(t) for c, t in zip(called, tags, strict=True))
    return hits / sum(called), hits / sum(map(bool, tags))


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_that_of_its_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    prob = random.integers(6, size=(30, 4)) / 6  # many images share a probability
    tags = random.random((30, 4)) < 0.4
    tags[0] = True
    for k, got in enumerate(average_precision(prob, tags)):
        expected, recall_before = 0.0, 0.0
        for least in sorted(set(prob[:, k]), reverse=True):
            precision, recall = precision_and_recall(prob[:, k], tags[:, k], least)
            expected += (recall - recall_before) * precision
            recall_before = recall
        assert got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(seed: int) -> None:
    random = np.random.default_rng(seed)
    prob, tags = random.random((30, 4)), random.random((30, 4)) < 0.4
    for k, got in enumerate(f1_scores(prob >= 0.5, tags)):
        precision, recall = precision_and_recall(prob[:, k], tags[:, k], 0.5)
        assert got == pytest.approx(2 / (1 / precision + 1 / recall))


@pytest.mark.parametrize(
    ("prob", "tags", "expected"),
    [
        ((0.9, 0.8, 0.1), (1, 1, 0), 1.0),
        ((0.9, 0.8, 0.1), (0, 0, 1), 1 / 3),
        ((0.9, 0.8, 0.7, 0.6), (1, 0, 1, 0), (1 + 2 / 3) / 2),
        ((0.5, 0.5, 0.5, 0.5), (1, 0, 0, 0), 0.25),
    ],
)
def test_average_precision_of_a_few_images(
    prob: tuple[float, ...], tags: tuple[int, ...], expected: float
) -> None:
    assert average_precision(column(*prob), column(*tags).astype(bool))[0] == pytest.approx(expected)


def test_the_order_of_the_images_does_not_matter() -> None:
    random = np.random.default_rng(0)
    prob, tags = random.integers(4, size=(20, 3)) / 4, random.random((20, 3)) < 0.5
    order = random.permutation(20)
    np.testing.assert_allclose(average_precision(prob[order], tags[order]), average_precision(prob, tags))


def test_a_class_that_no_image_shows_enters_no_mean() -> None:
    prob = np.array([[0.9, 0.1, 0.6], [0.8, 0.1, 0.1]])
    tags = np.array([[True, False, False], [True, False, False]])
    metrics = tag_metrics(prob, tags, Classes.of(("a", "b", "c")), threshold=0.5)
    assert metrics["class_f1"] == {"a": 1.0, "b": None, "c": 0.0}  # c is called seen, and wrongly
    assert metrics["class_ap"] == {"a": 1.0, "b": None, "c": None}
    assert (metrics["f1"], metrics["map"], metrics["threshold"]) == (0.5, 1.0, 0.5)


def test_without_any_class_there_are_no_figures() -> None:
    nothing = np.zeros((2, 2))
    metrics = tag_metrics(nothing, nothing.astype(bool), Classes.of(("a", "b")))
    assert (metrics["f1"], metrics["map"]) == (None, None)


def test_a_class_counts_as_seen_above_the_threshold_of_the_gate_and_not_at_it() -> None:
    metrics = tag_metrics(column(0.2, 0.21), column(1, 1).astype(bool), Classes.of(("a",)))
    assert metrics["threshold"] == 0.2
    assert metrics["f1"] == pytest.approx(2 / 3)
