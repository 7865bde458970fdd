from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from zoo.classes import IGNORE
from zoo.train.blocks.label_loss import LabelLoss, LabelLossConfig, dice, focal, lovasz, parsed_terms
from zoo.train.blocks.losses import cross_entropy, labeled_loss, ohem_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES = 4
WEIGHTS = torch.tensor([0.5, 2.0, 0.0, 1.5])


@pytest.fixture
def logits() -> Tensor:
    return 2 * torch.randn(2, CLASSES, 3, 5, dtype=torch.float64)


@pytest.fixture
def label() -> Tensor:
    """Return labels of the classes 0 to 2 with a row that is unknown; class 3 is nowhere."""
    label = torch.randint(3, (2, 3, 5))
    label[0, 0] = IGNORE
    return label


def pixels(logits: Tensor, label: Tensor) -> list[tuple[Tensor, int]]:
    """The probabilities and the label of each pixel that has one."""
    places = torch.cartesian_prod(*(torch.arange(n) for n in label.shape)).tolist()
    return [
        (logits[b, :, y, x].softmax(dim=0), int(label[b, y, x]))
        for b, y, x in places
        if label[b, y, x] != IGNORE
    ]


def weighted(values: list[tuple[Tensor, float]]) -> Tensor:
    return sum(w * v for v, w in values) / sum(w for _, w in values)  # type: ignore[return-value]


def literal_focal(logits: Tensor, label: Tensor, weights: Tensor | None, gamma: float) -> Tensor:
    """Lin et al., Eq. (5): FL(p_t) = -alpha_t (1 - p_t)^gamma log p_t, one pixel at a time."""
    return weighted(
        [
            (-((1 - prob[k]) ** gamma) * prob[k].log(), 1.0 if weights is None else float(weights[k]))
            for prob, k in pixels(logits, label)
        ]
    )


def literal_dice(logits: Tensor, label: Tensor, weights: Tensor | None) -> Tensor:
    """One minus the overlap of probabilities and labels, one class at a time."""
    each, values = pixels(logits, label), []
    for c in sorted({k for _, k in each}):
        common = sum(prob[c] for prob, k in each if k == c)
        size = sum(prob[c] + (k == c) for prob, k in each)
        values.append((1 - 2 * common / size, 1.0 if weights is None else float(weights[c])))
    return weighted(values)


def literal_lovasz(logits: Tensor, label: Tensor, weights: Tensor | None) -> Tensor:
    """Berman et al., Eq. (8), (9) and (11): the set function is evaluated anew for each prefix of errors."""
    each, values = pixels(logits, label), []
    for c in sorted({k for _, k in each}):
        errors = [(1 - prob[c] if k == c else prob[c], k == c) for prob, k in each]
        errors.sort(key=lambda pair: -pair[0].item())
        total = logits.new_zeros(())
        truth, before = sum(is_c for _, is_c in errors), 0.0
        for i, (error, _) in enumerate(errors):
            wrong = errors[: i + 1]
            missed = sum(is_c for _, is_c in wrong)
            jaccard_loss = 1 - (truth - missed) / (truth + len(wrong) - missed)
            total = total + error * (jaccard_loss - before)
            before = jaccard_loss
        values.append((total, 1.0 if weights is None else float(weights[c])))
    return weighted(values)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_that_of_its_paper(
    gamma: float, weights: Tensor | None, logits: Tensor, label: Tensor, assert_same: Callable[..., None]
) -> None:
    assert_same(
        lambda z: focal(z, label, weights, gamma), lambda z: literal_focal(z, label, weights, gamma), logits
    )


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize(("fast", "slow"), [(dice, literal_dice), (lovasz, literal_lovasz)])
def test_dice_and_lovasz_are_those_of_their_papers(
    fast: Callable[..., Tensor],
    slow: Callable[..., Tensor],
    weights: Tensor | None,
    logits: Tensor,
    label: Tensor,
    assert_same: Callable[..., None],
) -> None:
    assert_same(lambda z: fast(z, label, weights), lambda z: slow(z, label, weights), logits)


def test_a_weighted_cross_entropy_is_that_of_pytorch(
    logits: Tensor, label: Tensor, assert_same: Callable[..., None]
) -> None:
    def theirs(z: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(z, label, weight=WEIGHTS.double(), ignore_index=IGNORE)

    assert_same(lambda z: cross_entropy(z, label, WEIGHTS), theirs, logits)
    assert_same(lambda z: ohem_cross_entropy(z, label, 1.0, 1, WEIGHTS), theirs, logits)


def test_which_pixels_are_hard_does_not_depend_on_the_weights(logits: Tensor, label: Tensor) -> None:
    hard = [(p, k) for p, k in pixels(logits, label) if p[k] <= 0.3]
    assert 1 < len(hard) < 25
    expected = weighted([(-p[k].log(), float(WEIGHTS[k])) for p, k in hard])
    torch.testing.assert_close(ohem_cross_entropy(logits, label, 0.3, 1, WEIGHTS), expected)


NAMES = ("cross_entropy", "dice", "focal", "lovasz")


def loss_of(text: str, weights: Tensor | None = None, num_classes: int = CLASSES) -> LabelLoss:
    loss = LabelLoss(LabelLossConfig(parsed_terms(text), weighted=weights is not None), num_classes)
    if weights is not None:
        loss.get_buffer("class_weights").copy_(weights)
    return loss


@pytest.mark.parametrize("name", NAMES)
def test_equal_weights_and_their_scale_change_nothing(name: str, logits: Tensor, label: Tensor) -> None:
    plain = loss_of(name)(logits, label)
    torch.testing.assert_close(loss_of(name, torch.full((CLASSES,), 0.01))(logits, label), plain)
    torch.testing.assert_close(
        loss_of(name, 1e-3 * WEIGHTS)(logits, label), loss_of(name, WEIGHTS)(logits, label)
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_unknown_pixels_count_nowhere(
    name: str, weights: Tensor | None, logits: Tensor, label: Tensor
) -> None:
    loss = loss_of(name, weights)
    z = logits.clone().requires_grad_()
    value = loss(z, label)
    value.backward()
    assert z.grad is not None
    assert (z.grad.permute(0, 2, 3, 1)[label == IGNORE] == 0).all()
    other = logits.clone()
    other[0, :, 0] = 7.0
    other[0, 2, 0] = -9.0
    torch.testing.assert_close(loss(other, label), value.detach())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_without_a_counted_pixel_the_loss_is_a_zero_with_a_gradient_of_zeros(
    name: str, weights: Tensor | None, logits: Tensor, label: Tensor
) -> None:
    z = logits.float().requires_grad_()
    value = loss_of(name, weights)(z, torch.full_like(label, IGNORE))
    value.backward()
    assert value == 0
    assert z.grad is not None
    assert (z.grad == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_sure_right_prediction_has_no_loss_and_a_finite_gradient(name: str) -> None:
    label = torch.tensor([[[0, 1], [2, IGNORE]]])
    z = 100.0 * torch.nn.functional.one_hot(label.where(label != IGNORE, 3), CLASSES).permute(0, 3, 1, 2)
    z.requires_grad_()
    value = loss_of(name)(z, label)
    value.backward()
    assert value < 1e-6
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_half_precision_counts_as_exactly_as_single(logits: Tensor, label: Tensor) -> None:
    for name in ("dice", "focal", "lovasz"):
        half = logits.bfloat16()
        assert loss_of(name)(half, label) == loss_of(name)(half.float(), label)


def test_a_sum_of_terms_has_the_factors_that_are_given(logits: Tensor, label: Tensor) -> None:
    expected = cross_entropy(logits, label, WEIGHTS) + 0.5 * dice(logits, label, WEIGHTS)
    got = loss_of("cross_entropy + 0.5 * dice", WEIGHTS)(logits, label)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_hard_pixels_are_those_of_the_cross_entropy_alone(logits: Tensor, label: Tensor) -> None:
    expected = ohem_cross_entropy(logits, label, 0.3, 2) + lovasz(logits, label, None)
    assert loss_of("cross_entropy+lovasz")(logits, label, 0.3, 2) == expected


def test_the_default_is_the_cross_entropy_bit_for_bit_and_has_no_state(logits: Tensor, label: Tensor) -> None:
    loss = LabelLoss()
    assert loss(logits, label) == cross_entropy(logits, label)
    assert loss(logits, label, 0.3, 2) == labeled_loss(logits, label, 0.3, 2)
    assert loss.state_dict() == {}
    assert LabelLossConfig(parsed_terms("1 * cross_entropy")).is_plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mse", r"expected cross_entropy, dice, focal, lovasz or a sum .*'mse'"),
        ("dice +", "got the term ''"),
        ("dice + dice", "each term once, got dice again"),
        ("-1 * dice", "a positive number .* of dice, got '-1'"),
        ("0*dice", "a positive number"),
        ("two * dice", "a positive number .* got 'two'"),
        ("inf * dice", "a positive number"),
    ],
)
def test_a_wrong_expression_is_an_error_that_names_its_part(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parsed_terms(text)
    assert "\n" not in str(caught.value)


def test_the_loss_of_a_class_that_is_everywhere_and_right_by_half_can_be_checked_by_hand() -> None:
    z = torch.tensor([[0.0], [0.0]]).view(1, 2, 1, 1).expand(1, 2, 1, 2).double()
    label = torch.zeros(1, 1, 2, dtype=torch.long)
    assert dice(z, label, None).item() == pytest.approx(1 - 2 * 1 / (1 + 2))
    assert lovasz(z, label, None).item() == pytest.approx(0.5)
    assert focal(z, label, None, 2.0).item() == pytest.approx(0.25 * math.log(2))
