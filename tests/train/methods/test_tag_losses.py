from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from zoo.train.methods.mlmt import (
    binary_cross_entropy,
    categorical_cross_entropy,
    cosine_distance,
)

if TYPE_CHECKING:
    from collections.abc import Callable

B, K = 4, 5


@pytest.fixture
def tags() -> Tensor:
    """Return tags of which one image has none."""
    tags = torch.rand(B, K) < 0.5
    tags[0] = False
    return tags


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(B, K, dtype=torch.float64)


def test_binary_cross_entropy_judges_each_class_by_itself(
    assert_same: Callable[..., None], logits: Tensor, tags: Tensor
) -> None:
    def formula(logits: Tensor) -> Tensor:
        total = logits.new_zeros(())
        for image in range(B):
            for k in range(K):
                prob = 1 / (1 + torch.exp(-logits[image, k]))
                total = total - torch.log(prob if tags[image, k] else 1 - prob)
        return total / (B * K)

    assert_same(lambda x: binary_cross_entropy(x, tags), formula, logits)


def test_categorical_cross_entropy_is_that_of_equation_6(
    assert_same: Callable[..., None], logits: Tensor, tags: Tensor
) -> None:
    def formula(logits: Tensor) -> Tensor:
        total = logits.new_zeros(())
        for image in range(B):
            norm = sum(torch.exp(logits[image, k]) for k in range(K))
            for k in range(K):
                total = total - int(tags[image, k]) * torch.log(torch.exp(logits[image, k]) / norm)
        return total / B

    assert_same(lambda x: categorical_cross_entropy(x, tags), formula, logits)


def test_cosine_distance_is_one_minus_the_cosine_of_each_image(
    assert_same: Callable[..., None], logits: Tensor
) -> None:
    teacher = torch.randn(B, K, dtype=torch.float64)

    def formula(student: Tensor) -> Tensor:
        total = student.new_zeros(())
        for image in range(B):
            dot = sum(student[image, k] * teacher[image, k] for k in range(K))
            norms = [torch.sqrt(sum(x[image, k] ** 2 for k in range(K))) for x in (student, teacher)]
            total = total + 1 - dot / (norms[0] * norms[1])
        return total / B

    assert_same(lambda x: cosine_distance(x, teacher), formula, logits)


def test_consistency_moves_the_student_alone() -> None:
    student, teacher = (torch.randn(B, K, requires_grad=True) for _ in range(2))
    cosine_distance(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_those_who_agree_have_no_distance(logits: Tensor) -> None:
    assert cosine_distance(logits, logits).item() == pytest.approx(0, abs=1e-12)


def test_cosine_distance_does_not_see_the_scale_and_is_two_for_opposites(logits: Tensor) -> None:
    assert cosine_distance(logits, 7 * logits).item() == pytest.approx(0, abs=1e-12)
    assert cosine_distance(logits, -logits).item() == pytest.approx(2)


def test_logits_of_zero_have_a_finite_gradient() -> None:
    student = torch.zeros(2, 3, requires_grad=True)
    cosine_distance(student, torch.randn(2, 3)).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_an_image_without_classes_counts_as_none_of_them_or_not_at_all() -> None:
    logits, tags = torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.bool)
    assert binary_cross_entropy(logits, tags).item() == pytest.approx(math.log(2))
    assert categorical_cross_entropy(logits, tags).item() == 0
