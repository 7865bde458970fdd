from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.classes import IGNORE
from zoo.train.methods.u2pl.sampling import (
    class_means,
    on_grid,
    pixels_at,
    quantiles,
    random_places,
    ranks,
    sample_members,
    sample_per_class,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def test_samples_are_of_their_class() -> None:
    label = torch.randint(4, (500,))
    label[::7] = IGNORE
    place, present = sample_per_class(label, 4, 300)
    assert place.shape == (4, 300)
    assert present.all()
    assert (label[place] == torch.arange(4).unsqueeze(1)).all()


def test_every_element_of_a_class_is_drawn_equally_often() -> None:
    label = torch.tensor([1, 0, 1, IGNORE, 1, 2, 1])
    drawn = sample_per_class(label, 3, 40_000)[0][1].bincount(minlength=7) / 40_000
    torch.testing.assert_close(drawn, (label == 1) / 4, atol=0.01, rtol=0)


def test_a_class_without_an_element_is_absent_and_its_places_are_still_places() -> None:
    place, present = sample_per_class(torch.tensor([2, IGNORE, 0, 2]), 4, 5)
    assert present.tolist() == [True, False, True, False]
    assert ((place >= 0) & (place < 4)).all()


def test_a_batch_without_a_label_has_no_class() -> None:
    place, present = sample_per_class(torch.full((6,), IGNORE), 3, 2)
    assert not present.any()
    assert ((place >= 0) & (place < 6)).all()


def test_places_lie_below_the_size_however_large() -> None:
    size = torch.tensor([0, 1, 2, 2**40])
    place = random_places(size, 1000)
    assert (place[0] == 0).all()
    assert (place[1:] < size[1:].unsqueeze(1)).all()
    assert place[2].unique().tolist() == [0, 1]


def test_members_are_different_and_evenly_drawn() -> None:
    member = torch.zeros(2, 10, dtype=torch.bool)
    member[0, ::2] = True
    member[1, 3:] = True
    seen = torch.zeros(2, 10)
    for _ in range(2000):
        place, drawn = sample_members(member, 3)
        assert drawn.all()
        assert all(len(set(row)) == 3 for row in place.tolist())
        seen.scatter_add_(1, place, torch.ones(2, 3))
    expected = member * 3 / member.sum(dim=1, keepdim=True)
    torch.testing.assert_close(seen / 2000, expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("count", [3, 50])
def test_no_more_members_are_drawn_than_there_are(count: int) -> None:
    member = torch.tensor([[False, True, False, True], [False] * 4])
    place, drawn = sample_members(member, count)
    assert sorted(place[0][drawn[0]].tolist()) == [1, 3]
    assert not drawn[1].any()


def test_pixels_are_found_by_their_place_in_the_batch() -> None:
    features = torch.randn(2, 3, 4, 5)
    flat = features.permute(0, 2, 3, 1).reshape(-1, 3)
    place = torch.randint(40, (6, 7))
    assert torch.equal(pixels_at(features, place), flat[place])


def literal_class_means(features: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Eq. (12), one pixel at a time."""
    means = []
    for c in range(num_classes):
        total, count = features.new_zeros(features.shape[1]), 0
        for b, y, x in (label == c).nonzero().tolist():
            total, count = total + features[b, :, y, x], count + 1
        means.append(total / max(count, 1))
    return torch.stack(means)


def test_class_means_equal_their_formula(assert_same: Callable[..., None]) -> None:
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    label = torch.randint(4, (2, 4, 5))
    label[0, 0], label[label == 2] = IGNORE, 1  # class 2 has no pixel
    weight = torch.randn(4, 3, dtype=torch.float64)
    fast = partial(class_means, label=label, num_classes=4)
    slow = partial(literal_class_means, label=label, num_classes=4)
    assert_same(lambda f: (weight * fast(f)).sum(), lambda f: (weight * slow(f)).sum(), features)
    assert (fast(features)[2] == 0).all()


def test_ranks_count_the_likelier_classes() -> None:
    prob = torch.rand(2, 6, 3, 4)
    likelier = (prob.unsqueeze(1) > prob.unsqueeze(2)).sum(dim=2)
    assert torch.equal(ranks(prob), likelier)


def test_equal_probabilities_have_different_ranks() -> None:
    assert ranks(torch.full((1, 4, 1, 1), 0.25)).flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.2, 0.8, 0.999, 1.0])
def test_quantiles_are_those_of_numpy_over_the_finite_values(fraction: float) -> None:
    values = torch.randn(7, 13, dtype=torch.float64)
    values[2], values[3, :4] = torch.inf, torch.nan
    expected = np.percentile(values[values.isfinite()].numpy(), 100 * fraction)
    got = quantiles(values, (0.5, fraction))
    assert got[1].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("share", [0.2, 0.1, 0.03])
def test_a_quantile_parts_off_its_share_of_the_values(share: float) -> None:
    values = torch.rand(1009)
    dropped = (values >= quantiles(values, (1 - share,))).sum().item()
    assert abs(dropped / 1009 - share) <= 1 / 1009


def test_no_value_is_below_the_quantile_of_none() -> None:
    values = torch.full((5,), torch.inf)
    assert not (values < quantiles(values, (0.2, 0.8)).unsqueeze(1)).any()


@pytest.mark.slow
def test_quantiles_take_more_values_than_torch_does() -> None:
    values = torch.arange(2**24 + 3, dtype=torch.float64)
    assert quantiles(values, (0.5,)).item() == 2**23 + 1


@pytest.mark.parametrize("kind", [torch.long, torch.bool])
def test_maps_keep_their_type_and_values_on_the_grid(kind: torch.dtype) -> None:
    value = torch.randint(2, (2, 8, 12)).to(kind)
    small = on_grid(value, (4, 6))
    assert small.dtype == kind
    assert torch.equal(small, value[:, ::2, ::2])


def test_unknown_pixels_stay_unknown_on_the_grid() -> None:
    assert (on_grid(torch.full((1, 9, 9), IGNORE), (3, 3)) == IGNORE).all()
