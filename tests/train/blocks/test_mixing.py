from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from zoo.train.blocks.mixing import (
    RANDOM_BOX_DRAWS,
    cutmix,
    half_area_box,
    mixed,
    random_box,
    toggled_boxes,
    with_mixed_labels,
)
from zoo.train.method import DRAW_RANGE, DRAWS

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.method import Batch


def literal_toggled_boxes(draws: Tensor, height: int, width: int) -> Tensor:
    """methods.md B2, one box at a time: each turns what it covers into its opposite."""
    count = len(draws)
    share, aspect, place_y, place_x = (draws[:, 3 * n : 3 * n + 3] for n in range(4))
    mask = torch.zeros(count, height, width, dtype=torch.bool)
    for b in range(count):
        for n in range(3):
            area = 0.25 + 0.25 * share[b, n]
            side_y = area ** aspect[b, n]
            side_x = area / side_y
            size_y = int((side_y * (1 / 3) ** 0.5 * height).round())
            size_x = int((side_x * (1 / 3) ** 0.5 * width).round())
            y = int(place_y[b, n] * (height - size_y + 1))
            x = int(place_x[b, n] * (width - size_x + 1))
            mask[b, y : y + size_y, x : x + size_x] = ~mask[b, y : y + size_y, x : x + size_x]
    return mask


@pytest.mark.parametrize("seed", range(5))
def test_toggled_boxes_are_three_boxes_whose_overlaps_cancel(seed: int) -> None:
    torch.manual_seed(seed)
    draws = torch.rand(4, DRAWS)
    assert torch.equal(toggled_boxes(draws, (33, 48)), literal_toggled_boxes(draws, 33, 48))


def test_a_single_toggled_box_is_a_rectangle_of_a_drawn_area() -> None:
    mask = toggled_boxes(torch.rand(200, 4), (200, 300), boxes=1)
    rows, columns = mask.any(dim=2).sum(dim=1), mask.any(dim=1).sum(dim=1)
    covered = mask.sum(dim=(1, 2))
    assert torch.equal(covered, rows * columns)
    share = covered / (200 * 300)
    assert 0.245 < share.min() < 0.26
    assert 0.48 < share.max() < 0.505
    aspect = rows / 200 / (columns / 300)
    assert aspect.min() < 0.5
    assert aspect.max() > 2


def test_disjoint_toggled_boxes_cover_the_drawn_area_together() -> None:
    mask = toggled_boxes(torch.rand(300, DRAWS), (120, 120), area=(0.3, 0.3))
    share = mask.float().mean(dim=(1, 2))
    assert share.max() == pytest.approx(0.3, abs=0.01)
    assert share.min() < 0.25  # boxes that overlap


def test_toggled_boxes_may_lie_anywhere_and_differ_between_images() -> None:
    mask = toggled_boxes(torch.rand(400, DRAWS), (16, 16))
    assert mask.any(dim=0).all()
    assert not mask.all(dim=0).any()
    assert len({tuple(each.flatten().tolist()) for each in mask}) > 390


@pytest.mark.parametrize("channels", [0, 3])
def test_cutmix_takes_the_masked_pixels_of_the_other(channels: int) -> None:
    shape = (2, channels, 5, 6) if channels else (2, 5, 6)
    into, other = torch.randint(9, (2, *shape))
    mask = torch.rand(2, 5, 6) > 0.5
    result = cutmix(into, other, mask)
    for b, y, x in torch.cartesian_prod(*map(torch.arange, mask.shape)).tolist():
        source = other if mask[b, y, x] else into
        assert torch.equal(result[b, ..., y, x], source[b, ..., y, x])


def test_mixed_labels_are_those_of_mixed_logits() -> None:
    into, other = torch.randn(2, 2, 4, 8, 8)
    mask = half_area_box(torch.rand(2, DRAWS), (8, 8), 1.0)
    of_labels = cutmix(into.argmax(dim=1), other.argmax(dim=1), mask)
    assert torch.equal(cutmix(into, other, mask).argmax(dim=1), of_labels)


@pytest.mark.parametrize("size", [(64, 64), (48, 100), (33, 57)])
def test_the_box_is_a_rectangle_of_half_the_image_at_least_half_as_wide(size: tuple[int, int]) -> None:
    height, width = size
    mask = half_area_box(torch.rand(200, DRAWS), size, 1.0)
    rows, columns = mask.any(dim=2).sum(dim=1), mask.any(dim=1).sum(dim=1)
    assert torch.equal(mask.sum(dim=(1, 2)), rows * columns)
    rounding = 0.5 / height + 0.5 / width + 0.25 / (height * width)
    assert ((rows * columns / (height * width) - 0.5).abs() <= rounding).all()
    assert columns.min() >= width // 2
    assert columns.min() < 0.55 * width
    assert columns.max() > 0.95 * width


def test_boxes_may_lie_anywhere() -> None:
    assert half_area_box(torch.rand(400, DRAWS), (16, 16), 1.0).any(dim=0).all()


def test_each_image_gets_the_box_of_the_next_one() -> None:
    value = torch.arange(3).view(3, 1, 1, 1).expand(3, 2, 4, 4)
    box = torch.zeros(3, 4, 4, dtype=torch.bool)
    box[:, :2] = True
    result = mixed(value, box)
    assert torch.equal(result[:, 0], mixed(value[:, 0], box))
    assert result[:, 0, 0, 0].tolist() == [1, 2, 0]
    assert result[:, 0, 3, 3].tolist() == [0, 1, 2]


@pytest.mark.parametrize("size", [(200, 200), (120, 300)])
def test_random_boxes_are_rectangles_of_the_drawn_areas_and_aspects(size: tuple[int, int]) -> None:
    height, width = size
    mask = random_box(torch.rand(1000, RANDOM_BOX_DRAWS), size, 1.0)
    rows, columns = mask.any(dim=2).sum(dim=1), mask.any(dim=1).sum(dim=1)
    assert torch.equal(mask.sum(dim=(1, 2)), rows * columns)
    share = rows * columns / (height * width)
    assert 0.015 < share.min() < 0.03
    assert 0.38 < share.max() < 0.41
    large = share > 0.1  # whose sides are many pixels
    aspect = (rows / height / (columns / width))[large]
    assert 0.28 < aspect.min() < 0.4
    assert 2.5 < aspect.max() < 3.5


def test_random_boxes_lie_anywhere() -> None:
    assert random_box(torch.rand(400, DRAWS), (16, 16), 1.0).any(dim=0).all()


@pytest.mark.parametrize("box", [half_area_box, random_box])
@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_each_image_gets_a_box_by_chance(box: Callable[..., Tensor], probability: float) -> None:
    share = box(torch.rand(2000, DRAWS), (64, 64), probability).any(dim=(1, 2)).float().mean()
    assert share == pytest.approx(probability, abs=0.04 if 0 < probability < 1 else 0)


def test_labeled_images_get_a_box_of_the_next_one_with_its_labels_and_its_padding(
    make_batch: Callable[..., Batch],
) -> None:
    batch = make_batch(labeled=2)
    assert with_mixed_labels(batch) is batch
    valid = torch.rand(4, 32, 32) < 0.9
    draws = torch.rand(2, DRAWS)
    draws[0, 0], draws[1, 0] = 0.0, 0.9  # the first image gets a box, the second none
    found = with_mixed_labels(batch._replace(valid_l=valid, draws_l=(draws * DRAW_RANGE).int()))
    box = half_area_box(draws, (32, 32), 0.5)[0]
    assert 0.4 < box.float().mean() < 0.6
    assert found.draws_l is None
    for after, before in (
        (found.image_l, batch.image_l),
        (found.label_l, batch.label_l),
        (found.valid_l, valid),
    ):
        assert torch.equal(after[0], torch.where(box, before[1], before[0]))
        assert torch.equal(after[1:], before[1:])
    assert torch.equal(found.image_u, batch.image_u)
