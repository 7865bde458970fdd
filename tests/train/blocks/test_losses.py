from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from zoo.classes import IGNORE
from zoo.models.decoders.decoder import entropy
from zoo.train.blocks.losses import balanced_binary_cross_entropy, cross_entropy, ohem_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable

PERMUTATION = [2, 0, 3, 1]


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(2, 4, 3, 5, dtype=torch.float64)


@pytest.fixture
def label() -> Tensor:
    label = torch.randint(4, (2, 3, 5))
    label[0, 0] = IGNORE
    return label


def literal_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """The mean of -log p[label] over the labeled pixels, one pixel at a time."""
    total, count = logits.new_zeros(()), 0
    for b, y, x in torch.cartesian_prod(*(torch.arange(n) for n in label.shape)).tolist():
        if label[b, y, x] != IGNORE:
            scores = logits[b, :, y, x]
            total = total - (scores[label[b, y, x]] - scores.exp().sum().log())
            count += 1
    return total / count


def literal_ohem(logits: Tensor, label: Tensor, threshold: float, min_kept: int) -> Tensor:
    """methods.md C3: keep probabilities up to the larger of the threshold and the `min_kept`-th smallest."""
    known = [tuple(p) for p in (label != IGNORE).nonzero().tolist()]
    probs = [logits[b, :, y, x].softmax(dim=0)[label[b, y, x]] for b, y, x in known]
    if len(probs) >= min_kept:
        bound = max(threshold, sorted(prob.item() for prob in probs)[min_kept - 1])
        probs = [prob for prob in probs if prob <= bound]
    return -torch.stack(probs).log().mean()


def literal_entropy(logits: Tensor) -> Tensor:
    """The sum over classes of -p log p, one class at a time."""
    prob = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    total = torch.zeros_like(prob[:, :1])
    for c in range(logits.shape[1]):
        total = total - prob[:, c : c + 1] * prob[:, c : c + 1].log()
    return total


def literal_balanced(logits: Tensor, correct: Tensor, counted: Tensor) -> Tensor:
    """Eq. 5 with the sums of the batch, divided by the counted pixels, one pixel at a time."""
    pixels = [tuple(p) for p in counted.nonzero().tolist()]
    right = sum(bool(correct[p]) for p in pixels)
    wrong = len(pixels) - right
    total = logits.new_zeros(())
    for pixel in pixels:
        prob = 1 / (1 + (-logits[pixel]).exp())
        total = total - (prob.log() if correct[pixel] else right / wrong * (1 - prob).log())
    return total / len(pixels)


def test_cross_entropy_equals_its_formula(
    logits: Tensor, label: Tensor, assert_same: Callable[..., None]
) -> None:
    assert_same(partial(cross_entropy, label=label), partial(literal_cross_entropy, label=label), logits)


def test_cross_entropy_averages_over_the_batch_and_not_over_images() -> None:
    logits = torch.tensor([[[[2.0, 2.0]], [[0.0, 0.0]]], [[[0.0, 0.0]], [[0.0, 0.0]]]])
    label = torch.tensor([[[0, 0]], [[1, IGNORE]]])
    of_pixel = torch.tensor([1 + torch.tensor(-2.0).exp(), 1 + torch.tensor(-2.0).exp(), 2.0]).log()
    torch.testing.assert_close(cross_entropy(logits, label), of_pixel.mean())


def test_cross_entropy_of_an_unlabeled_batch_is_a_zero_with_a_gradient(logits: Tensor) -> None:
    logits.requires_grad_()
    loss = cross_entropy(logits, torch.full((2, 3, 5), IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_cross_entropy_does_not_depend_on_the_order_of_the_classes(logits: Tensor, label: Tensor) -> None:
    new_id = torch.tensor(PERMUTATION).argsort()
    permuted = torch.where(label == IGNORE, IGNORE, new_id[label.clamp(max=3)])
    torch.testing.assert_close(cross_entropy(logits[:, PERMUTATION], permuted), cross_entropy(logits, label))


def test_entropy_equals_its_formula(logits: Tensor, assert_same: Callable[..., None]) -> None:
    weight = torch.randn(2, 1, 3, 5, dtype=torch.float64)
    assert_same(lambda z: (weight * entropy(z)).sum(), lambda z: (weight * literal_entropy(z)).sum(), logits)


def test_entropy_of_equal_scores_is_the_log_of_the_number_of_classes() -> None:
    torch.testing.assert_close(entropy(torch.zeros(1, 4, 1, 1)), torch.full((1, 1, 1, 1), 4.0).log())


def test_entropy_of_a_certain_prediction_is_a_finite_zero() -> None:
    assert entropy(torch.tensor([1e4, 0.0]).view(1, 2, 1, 1)).item() == 0


def test_entropy_does_not_depend_on_the_order_of_the_classes(logits: Tensor) -> None:
    torch.testing.assert_close(entropy(logits[:, PERMUTATION]), entropy(logits))


@pytest.mark.parametrize("some_uncounted", [False, True])
def test_the_balanced_loss_equals_its_formula(some_uncounted: bool, assert_same: Callable[..., None]) -> None:
    logits = torch.randn(2, 4, 5, dtype=torch.float64)
    masks = {"correct": torch.rand(2, 4, 5) > 0.3, "counted": torch.ones(2, 4, 5, dtype=torch.bool)}
    if some_uncounted:
        masks["counted"][0, :2] = False
    assert_same(partial(balanced_binary_cross_entropy, **masks), partial(literal_balanced, **masks), logits)


def test_wrong_pixels_weigh_together_as_much_as_right_ones() -> None:
    logits = torch.zeros(1, 1, 4, requires_grad=True)
    correct = torch.tensor([[[True, True, True, False]]])
    balanced_binary_cross_entropy(logits, correct, torch.ones_like(correct)).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[[-1.0, -1.0, -1.0, 3.0]]]) / 8)


@pytest.mark.parametrize("all_right", [False, True])
def test_the_balanced_loss_is_finite_when_all_pixels_are_alike(all_right: bool) -> None:
    logits = torch.randn(1, 4, 4, requires_grad=True)
    correct = torch.full((1, 4, 4), all_right)
    loss = balanced_binary_cross_entropy(logits, correct, torch.ones_like(correct))
    loss.backward()
    expected = torch.nn.functional.softplus(-logits).mean() if all_right else torch.zeros(())
    torch.testing.assert_close(loss, expected)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_balanced_loss_without_a_counted_pixel_is_a_zero_with_a_gradient() -> None:
    logits = torch.randn(1, 4, 4, requires_grad=True)
    nothing = torch.zeros(1, 4, 4, dtype=torch.bool)
    loss = balanced_binary_cross_entropy(logits, nothing, nothing)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("min_kept", [1, 10, 24, 25, 26, 1000])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_the_hard_pixels_loss_equals_its_formula(
    threshold: float, min_kept: int, logits: Tensor, label: Tensor, assert_same: Callable[..., None]
) -> None:
    settings = {"label": label, "threshold": threshold, "min_kept": min_kept}
    assert_same(partial(ohem_cross_entropy, **settings), partial(literal_ohem, **settings), logits)


def test_easy_pixels_have_no_gradient() -> None:
    logits = torch.tensor([5.0, -5.0, 0.1, 3.0]).view(1, 1, 2, 2)
    logits = torch.cat([logits, -logits], dim=1).requires_grad_()
    ohem_cross_entropy(logits, torch.zeros(1, 2, 2, dtype=torch.long), 0.7, 1).backward()
    assert logits.grad is not None
    assert logits.grad.any(dim=1).tolist() == [[[False, True], [True, False]]]


def test_the_hard_pixels_loss_of_an_unlabeled_batch_is_a_zero_with_a_gradient(logits: Tensor) -> None:
    logits.requires_grad_()
    loss = ohem_cross_entropy(logits, torch.full((2, 3, 5), IGNORE), 0.7, 10)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
