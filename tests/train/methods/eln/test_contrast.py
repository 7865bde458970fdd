from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from zoo.classes import IGNORE
from zoo.train.methods.eln import contrast
from zoo.train.methods.eln.contrast import FORMS, mean_over_windows, mean_positive, pair_sums, random_windows

if TYPE_CHECKING:
    from collections.abc import Callable

TEMPERATURE = 0.5
CLASSES = 4


@pytest.fixture
def features() -> tuple[Tensor, Tensor]:
    """Return teacher and student features of 17 pixels."""
    return torch.randn(17, 5, dtype=torch.float64), torch.randn(17, 5, dtype=torch.float64)


@pytest.fixture
def label() -> Tensor:
    """Return classes of 17 pixels: 3 is absent, 2 has one pixel, three take no part."""
    return torch.tensor([0, 1, 1, 0, IGNORE, 0, 1, 2, 1, 1, 0, IGNORE, 0, 0, 1, IGNORE, 0])


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """d(f1, f2) = exp(cos(f1, f2) / tau), below Eq. 10."""
    return ((first @ second) / (first.norm() * second.norm()) / TEMPERATURE).exp()


def literal_official(teacher: Tensor, student: Tensor, label: Tensor) -> Tensor:
    """The loop of utils/losses.py (methods.md, A3, CTR_off): one ratio of pair sums for each class."""
    valid = [i for i in range(len(label)) if label[i] != IGNORE]
    losses = []
    for c in sorted({int(label[i]) for i in valid}):
        members = [i for i in valid if label[i] == c]
        others = [i for i in valid if label[i] != c]
        positive = sum(similarity(teacher[i], student[j]) for i in members for j in members)
        negative = sum(similarity(teacher[i], student[j]) for i in members for j in others)
        losses.append(-torch.as_tensor(positive / (positive + negative)).log() / len(members))
    return torch.stack(losses).mean()


def literal_mean_positive(teacher: Tensor, student: Tensor, label: Tensor) -> Tensor:
    """Eq. 10, with the sum over the positives of pixel i divided by their number."""
    valid = [i for i in range(len(label)) if label[i] != IGNORE]
    total = teacher.new_zeros(())
    for i in valid:
        positives = [j for j in valid if label[j] == label[i]]
        negatives = [k for k in valid if label[k] != label[i]]
        apart = sum(similarity(student[i], teacher[k]) for k in negatives)
        for j in positives:
            close = similarity(student[i], teacher[j])
            total = total - (close / (close + apart)).log() / len(positives)
    return total / len(valid)


LITERAL = {"official": literal_official, "mean_pos": literal_mean_positive}


@pytest.fixture(params=sorted(FORMS))
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_form_of_the_settings_has_its_formula_here() -> None:
    assert set(FORMS) == set(LITERAL)


def test_it_equals_the_formula(
    form: str, features: tuple[Tensor, Tensor], label: Tensor, assert_same: Callable[..., None]
) -> None:
    function = partial(FORMS[form], label=label, num_classes=CLASSES, temperature=TEMPERATURE)
    assert_same(function, partial(LITERAL[form], label=label), *features)


@pytest.mark.parametrize("chunk", [1, 5, 17])
def test_chunks_do_not_change_it(
    form: str, chunk: int, features: tuple[Tensor, Tensor], label: Tensor, assert_same: Callable[..., None]
) -> None:
    function = partial(FORMS[form], label=label, num_classes=CLASSES)
    assert_same(partial(function, chunk=chunk), function, *features)


@pytest.mark.parametrize("block", [1, 40, 2**20])
def test_a_gradient_that_is_computed_beside_the_value_is_that_of_the_formula(
    form: str,
    block: int,
    features: tuple[Tensor, Tensor],
    label: Tensor,
    assert_same: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contrast, "BLOCK", block)
    teacher, student = features  # the teacher without a gradient, as in training
    function = partial(FORMS[form], label=label, num_classes=CLASSES, temperature=TEMPERATURE)
    literal = partial(LITERAL[form], label=label)
    assert_same(partial(function, teacher), partial(literal, teacher), student)


def test_both_ways_agree_on_many_pixels(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, student = torch.randn(2, 3000, 6)
    label = torch.randint(CLASSES, (3000,))
    student.requires_grad_()
    results = []
    for is_fast in (True, False):
        monkeypatch.setattr(contrast, "_is_fast", lambda *_, is_fast=is_fast: is_fast)
        loss = FORMS[form](teacher, student, label, CLASSES)
        results.append((loss.detach(), *torch.autograd.grad(loss, student)))
    torch.testing.assert_close(*results, atol=1e-7, rtol=1e-4)


def test_it_is_a_zero_with_a_gradient_when_no_pixel_takes_part(
    form: str, features: tuple[Tensor, Tensor]
) -> None:
    teacher, student = features
    student.requires_grad_()
    loss = FORMS[form](teacher, student, torch.full((17,), IGNORE), CLASSES)
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_it_is_a_finite_zero_when_all_pixels_are_of_one_class(
    form: str, features: tuple[Tensor, Tensor]
) -> None:
    teacher, student = features
    student.requires_grad_()
    loss = FORMS[form](teacher, student, torch.ones(17, dtype=torch.int64), CLASSES)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_low_temperature_is_finite_in_single_precision(form: str) -> None:
    student = torch.eye(4).requires_grad_()
    loss = FORMS[form](torch.eye(4), student, torch.arange(4), CLASSES, temperature=0.02)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_the_order_of_the_classes_does_not_matter(
    form: str, features: tuple[Tensor, Tensor], label: Tensor
) -> None:
    new_id = torch.tensor([3, 0, 1, 2])
    permuted = torch.where(label == IGNORE, IGNORE, new_id[label.clamp(max=3)])
    function = partial(FORMS[form], *features, num_classes=CLASSES)
    torch.testing.assert_close(function(label=permuted), function(label=label))


def test_classes_without_a_pixel_do_not_change_it(
    form: str, features: tuple[Tensor, Tensor], label: Tensor
) -> None:
    function = partial(FORMS[form], *features, label)
    torch.testing.assert_close(function(num_classes=50), function(num_classes=3))


def test_the_length_of_a_feature_does_not_matter(
    form: str, features: tuple[Tensor, Tensor], label: Tensor
) -> None:
    teacher, student = features
    function = partial(FORMS[form], label=label, num_classes=CLASSES)
    torch.testing.assert_close(function(3 * teacher, 7 * student), function(teacher, student))


def test_orthogonal_pixels_of_two_classes_have_the_value_one_finds_on_paper() -> None:
    features, label = torch.eye(2), torch.arange(2)
    on_paper = math.log(1 + math.exp(-2))  # P = e^2, N = e^0 for both classes
    assert pair_sums(features, features, label, 2).item() == pytest.approx(on_paper)
    assert mean_positive(features, features, label, 2).item() == pytest.approx(on_paper)


def test_anchors_are_teacher_pixels_in_the_official_form_and_student_pixels_in_the_papers() -> None:
    teacher, student = torch.tensor([[1.0, 0], [1, 0], [0, 1]]), torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    label = torch.tensor([0, 0, 1])
    e = math.exp(2)
    # class 0: P = 2 e + 2, N = 2; class 1: P = e, N = e + 1
    official = (math.log(1 + 2 / (2 * e + 2)) / 2 + math.log(1 + (e + 1) / e)) / 2
    # student 0: positives e, negatives 1; student 1: positives 1, negatives e; student 2: e against 2
    paper = (math.log(1 + 1 / e) + math.log(1 + e) + math.log(1 + 2 / e)) / 3
    assert pair_sums(teacher, student, label, 2).item() == pytest.approx(official)
    assert mean_positive(teacher, student, label, 2).item() == pytest.approx(paper)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_precision_computes_it_in_single(form: str, dtype: torch.dtype, label: Tensor) -> None:
    teacher, student = torch.randn(17, 5).to(dtype), torch.randn(17, 5).to(dtype)
    results = []
    for enabled in (False, True):
        leaf = student.detach().clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = FORMS[form](teacher, leaf if enabled else leaf.float(), label, CLASSES)
        (gradient,) = torch.autograd.grad(loss, leaf)
        results.append((loss.detach(), gradient.float()))
    assert results[1][0].dtype == torch.float32
    for exact, mixed in zip(*results, strict=True):
        torch.testing.assert_close(mixed, exact, atol=1e-3, rtol=0)


def test_windows_stay_inside_the_map_and_reach_its_borders() -> None:
    rows, columns = random_windows(torch.empty(2, 1, 7, 9), 300, 4)
    assert rows.shape == (300, 4, 1)
    assert columns.shape == (300, 1, 4)
    assert rows.unique().tolist() == list(range(7))
    assert columns.unique().tolist() == list(range(9))
    assert (rows.diff(dim=1) == 1).all()
    assert (columns.diff(dim=2) == 1).all()


def test_a_window_larger_than_the_map_is_the_map() -> None:
    rows, columns = random_windows(torch.empty(2, 1, 3, 5), 2, 32)
    assert rows.flatten().tolist() == [0, 1, 2] * 2
    assert columns.flatten().tolist() == [0, 1, 2, 3, 4] * 2


def test_all_images_and_both_networks_share_a_window() -> None:
    position = torch.arange(42.0).view(1, 1, 6, 7).expand(3, 1, 6, 7)
    seen = []

    def contrast(teacher: Tensor, student: Tensor, label: Tensor) -> Tensor:
        assert torch.equal(teacher, student)
        assert torch.equal(teacher.flatten().long(), label)
        seen.append(label.view(3, -1))
        return label.new_zeros((), dtype=torch.float32)

    windows = random_windows(position, 5, 4)
    mean_over_windows(contrast, position, position, position[:, 0].long(), windows)
    assert [tuple(each.shape) for each in seen] == [(3, 16)] * 5
    assert all(torch.equal(each[0], each[1]) and torch.equal(each[0], each[2]) for each in seen)
    assert len({each[0, 0].item() for each in seen}) > 1


def test_the_loss_of_windows_is_the_mean_of_their_losses(form: str) -> None:
    teacher, student = torch.randn(2, 2, 5, 6, 6)  # (B, D, h, w) each
    label = torch.randint(CLASSES, (2, 6, 6))
    contrast = partial(FORMS[form], num_classes=CLASSES)
    windows = random_windows(teacher, 3, 4)
    by_hand = []
    for row, column in zip(windows[0][:, 0, 0].tolist(), windows[1][:, 0, 0].tolist(), strict=True):
        part = (..., slice(row, row + 4), slice(column, column + 4))
        pixels = [each[part].movedim(1, -1).reshape(-1, 5) for each in (teacher, student)]
        by_hand.append(contrast(*pixels, label=label[part].flatten()))
    got = mean_over_windows(contrast, teacher, student, label, windows)
    torch.testing.assert_close(got, torch.stack(by_hand).mean())
