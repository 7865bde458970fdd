from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from zoo.train.blocks.losses import cross_entropy
from zoo.train.methods.rrn import Normalization, fooled_regions, region_loss

if TYPE_CHECKING:
    from collections.abc import Callable

NORMALIZATIONS: tuple[Normalization, ...] = ("selected", "separate")


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(2, 4, 3, 5, dtype=torch.float64)


@pytest.fixture
def valid() -> Tensor:
    valid = torch.ones(2, 3, 5, dtype=torch.bool)
    valid[0, 2] = False
    return valid


@pytest.fixture
def regions(valid: Tensor) -> Tensor:
    return (torch.rand(2, 2, 3, 5) < 0.5) & valid


def literal_region_loss(
    logits: Tensor, regions: Tensor, valid: Tensor, normalization: Normalization
) -> Tensor:
    """Eq. 3 with its three cases, one pixel at a time."""
    own = [logits.new_zeros(()), logits.new_zeros(())]
    both, counts, accepted = logits.new_zeros(()), [0, 0], 0
    for b, y, x in valid.nonzero().tolist():
        prob = logits[b, :, y, x].exp() / logits[b, :, y, x].exp().sum()
        loss = -prob.max().log()
        first, second = bool(regions[0, b, y, x]), bool(regions[1, b, y, x])
        if first and second:
            both = both + 2 * loss
        elif first or second:
            both = both + loss
        accepted += first or second
        for d, fooled in enumerate((first, second)):
            own[d], counts[d] = own[d] + loss * fooled, counts[d] + fooled
    if normalization == "separate":
        return own[0] / counts[0] + own[1] / counts[1]
    return both / accepted


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_the_dynamic_region_loss_is_its_formula(
    normalization: Normalization,
    logits: Tensor,
    regions: Tensor,
    valid: Tensor,
    assert_same: Callable[..., None],
) -> None:
    assert_same(
        partial(region_loss, regions=regions, normalization=normalization),
        partial(literal_region_loss, regions=regions, valid=valid, normalization=normalization),
        logits,
    )


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_two_fooled_discriminators_double_the_plain_cross_entropy(
    normalization: Normalization, logits: Tensor, valid: Tensor
) -> None:
    everywhere = torch.ones_like(valid)
    fooled = torch.stack([everywhere, everywhere])
    plain = cross_entropy(logits, logits.argmax(dim=1))
    torch.testing.assert_close(region_loss(logits, fooled, normalization), 2 * plain)
    torch.testing.assert_close(region_loss(logits, fooled[:1], normalization), plain)


def test_one_discriminator_gives_the_local_selection_loss(logits: Tensor, regions: Tensor) -> None:
    chosen = regions[0]
    label = logits.argmax(dim=1).where(chosen, 255)
    for normalization in ("selected", "separate"):
        got = region_loss(logits, regions[:1], normalization)
        torch.testing.assert_close(got, cross_entropy(logits, label))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_no_fooled_discriminator_gives_an_exact_zero_with_a_gradient(
    normalization: Normalization, logits: Tensor, regions: Tensor
) -> None:
    logits.requires_grad_()
    loss = region_loss(logits, torch.zeros_like(regions), normalization)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_region_is_fooled_from_the_threshold_on() -> None:
    score = torch.tensor([-0.001, 0.0, 0.001]).view(3, 1, 1)
    fooled = fooled_regions(score, torch.Size((4, 4)), 0.5)
    assert fooled.flatten(1).all(dim=1).tolist() == [False, True, True]
    assert fooled.flatten(1).any(dim=1).tolist() == [False, True, True]


def test_regions_are_blocks_of_the_image() -> None:
    score = torch.tensor([[[5.0, -5.0], [-5.0, -5.0]]])
    fooled = fooled_regions(score, torch.Size((4, 6)), 0.6)
    expected = torch.zeros(1, 4, 6, dtype=torch.bool)
    expected[:, :2, :3] = True
    assert torch.equal(fooled, expected)
