from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.classes import IGNORE, Classes
from zoo.evaluation.metrics import ConfusionMatrix

if TYPE_CHECKING:
    from torch import Tensor

K = 4
PIXELS = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 3, IGNORE]), st.integers(0, K - 1)), min_size=1, max_size=60
)


def matrix(pairs: list[tuple[int, int]]) -> ConfusionMatrix:
    result = ConfusionMatrix(K)
    result.update(*split(pairs))
    return result


def split(pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    labels, predictions = zip(*pairs, strict=True)
    return torch.tensor(labels, dtype=torch.uint8), torch.tensor(predictions, dtype=torch.uint8)


def loop_iou(pairs: list[tuple[int, int]], k: int) -> float:
    """The definition, pixel by pixel."""
    intersection = union = labeled = 0
    for label, prediction in pairs:
        if label == IGNORE:
            continue
        if label == k and prediction == k:
            intersection += 1
        labeled += label == k
        if k in (label, prediction):
            union += 1
    return intersection / union if labeled else math.nan


@given(PIXELS)
def test_figures_equal_a_loop_over_pixels(pairs: list[tuple[int, int]]) -> None:
    found = matrix(pairs)
    expected = [loop_iou(pairs, k) for k in range(K)]
    assert found.iou().tolist() == pytest.approx(expected, nan_ok=True)
    present = [iou for iou in expected if not math.isnan(iou)]
    mean = sum(present) / len(present) if present else math.nan
    assert found.miou() == pytest.approx(mean, nan_ok=True)
    counted = [(label, prediction) for label, prediction in pairs if label != IGNORE]
    right = sum(label == prediction for label, prediction in counted)
    accuracy = right / len(counted) if counted else math.nan
    assert found.pixel_accuracy() == pytest.approx(accuracy, rel=1e-6, nan_ok=True)


@given(PIXELS, st.permutations(range(K)))
def test_renaming_the_classes_permutes_the_ious(pairs: list[tuple[int, int]], order: list[int]) -> None:
    renamed = [(label if label == IGNORE else order[label], order[prediction]) for label, prediction in pairs]
    before, after = matrix(pairs), matrix(renamed)
    assert after.iou()[order].tolist() == pytest.approx(before.iou().tolist(), nan_ok=True)
    assert after.miou() == pytest.approx(before.miou(), nan_ok=True)


@given(PIXELS, PIXELS)
def test_the_matrix_of_two_sets_is_the_sum_of_theirs(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    both = matrix(first)
    both.update(*split(second))
    assert torch.equal(both.counts, matrix(first).counts + matrix(second).counts)
    assert torch.equal(both.counts, matrix(first + second).counts)


def test_rows_are_labels_and_columns_are_predictions() -> None:
    found = ConfusionMatrix(2)
    found.update(torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 1]]))
    assert found.counts.tolist() == [[1, 1], [0, 1]]
    assert found.iou().tolist() == [0.5, 0.5]


def test_a_class_absent_from_labels_and_predictions_does_not_enter_the_mean() -> None:
    found = ConfusionMatrix(3)
    found.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert math.isnan(found.iou()[2])
    assert found.miou() == 1.0


def test_a_class_that_is_only_predicted_is_not_in_the_mean_and_lowers_the_true_classes() -> None:
    found = ConfusionMatrix(3)
    found.update(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 2]))
    assert found.iou().tolist()[:2] == [1.0, 0.5]
    assert math.isnan(found.iou()[2])
    assert found.miou() == 0.75


def test_models_that_predict_other_absent_classes_share_one_denominator() -> None:
    means = []
    for predicted in (2, 3):
        found = ConfusionMatrix(4)
        found.update(torch.tensor([0, 0, 1]), torch.tensor([0, predicted, 1]))
        means.append(found.miou())
    assert means == [0.75, 0.75]


def test_all_pixels_ignored_is_nan_and_none_in_json() -> None:
    found = ConfusionMatrix(2)
    found.update(torch.full((2, 3), IGNORE), torch.zeros(2, 3, dtype=torch.int64))
    assert math.isnan(found.miou())
    assert math.isnan(found.pixel_accuracy())
    assert found.as_dict(Classes.of(("ground", "tree"))) == {
        "miou": None,
        "pixel_accuracy": None,
        "iou": {"ground": None, "tree": None},
    }


def test_counts_stay_exact_beyond_the_range_of_float32() -> None:
    found = ConfusionMatrix(2)
    found.counts += torch.tensor([[2**40, 0], [0, 0]])
    found.update(torch.tensor([0]), torch.tensor([0]))
    assert found.counts[0, 0] == 2**40 + 1


def test_the_arguments_are_not_changed() -> None:
    label, prediction = split([(IGNORE, 1), (2, 2)])
    before = label.clone(), prediction.clone()
    ConfusionMatrix(K).update(label, prediction)
    assert torch.equal(label, before[0])
    assert torch.equal(prediction, before[1])


@pytest.mark.gpu
def test_counts_are_kept_on_the_gpu() -> None:
    found = ConfusionMatrix(2, "cuda")
    found.update(torch.tensor([0, 1, IGNORE], device="cuda"), torch.tensor([0, 0, 1], device="cuda"))
    assert found.counts.is_cuda
    assert found.counts.tolist() == [[1, 0], [1, 0]]
