"""CutMix for segmentation (French et al., BMVC 2020): rectangles of one image pasted into another.

The boxes are computed from random numbers that come with the images (`Batch.draws_u`), so that an image gets
the same boxes in any process and in a resumed run. Nothing synchronizes with the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from zoo.train.method import Batch

LABELED_PROBABILITY = 0.5
"""Probability that a labeled image gets a box of the next one, U2PL's of unlabeled images."""

RANDOM_BOX_DRAWS = 5
"""Number of random numbers that `random_box` uses."""


def cutmix(into: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Return `into` with the masked pixels of `other`.

    Args:
        into: (B, C, H, W) images or (B, H, W) label maps, any dtype.
        other: images or label maps of the same shape.
        mask: (B, H, W) bool, True where `other` is used.
    """
    return torch.where(mask if into.ndim == 3 else mask.unsqueeze(1), other, into)


def mixed(value: Tensor, box: Tensor) -> Tensor:
    """Return each image or map with the box of the next one of its batch.

    Args:
        value: (B, C, H, W) or (B, H, W), any dtype.
        box: (B, H, W) bool.
    """
    return cutmix(value, value.roll(-1, dims=0), box)


def with_mixed_labels(batch: Batch) -> Batch:
    """Return the batch with the labeled images that have `draws_l` mixed, including labels and padding.

    Half of the images get a box of the next one. Further labeled streams stay as they are.
    """
    if batch.draws_l is None:
        return batch
    count = len(batch.draws_l)
    box = half_area_box(batch.labeled_draws, batch.image_l.shape[-2:], LABELED_PROBABILITY)

    def mix(value: Tensor) -> Tensor:
        return torch.cat([mixed(value[:count], box), value[count:]])

    return batch._replace(
        image_l=mix(batch.image_l), label_l=mix(batch.label_l), valid_l=mix(batch.valid_l), draws_l=None
    )


def toggled_boxes(
    draws: Tensor, size: tuple[int, ...], boxes: int = 3, area: tuple[float, float] = (0.25, 0.5)
) -> Tensor:
    """Return a mask of several random boxes for each image, (B, H, W) bool; overlaps cancel (CPS, RRN).

    The area of each box is drawn from `area`, divided by the number of boxes; its aspect ratio is random.

    Args:
        draws: (B, at least 4 * boxes) float in [0, 1).
        size: height and width of the mask.
        boxes: number of boxes for each image.
        area: range of the total area of the boxes, as a share of the image, if they do not overlap.
    """
    low, high = area
    share, aspect, place_y, place_x = draws[:, : 4 * boxes].unflatten(1, (4, boxes)).unbind(dim=1)
    share = low + (high - low) * share
    side_y = share**aspect
    scale = boxes**-0.5
    rows = _interval(side_y * scale, place_y, size[0])
    columns = _interval(share / side_y * scale, place_x, size[1])
    return _boxes(rows, columns).sum(dim=1) % 2 == 1


def half_area_box(draws: Tensor, size: tuple[int, ...], probability: float) -> Tensor:
    """Return a mask of one box of half the image's area, (B, H, W) bool, randomly empty (U2PL).

    Args:
        draws: (B, at least 4) float in [0, 1).
        size: height and width of the mask.
        probability: probability that an image gets a box.
    """
    chance, side, place_y, place_x = draws[:, :4].split(1, dim=1)  # (B, 1) each
    side_x = (1 + side) / 2
    rows, columns = _interval(0.5 / side_x, place_y, size[0]), _interval(side_x, place_x, size[1])
    is_chosen: Tensor = chance < probability
    return _boxes(rows, columns).squeeze(1) & is_chosen.unsqueeze(-1)


def random_box(
    draws: Tensor,
    size: tuple[int, ...],
    probability: float,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Tensor:
    """Return a mask of one box of random area and aspect ratio, (B, H, W) bool, randomly empty (UniMatch).

    The aspect ratio is drawn from those with which the box fits into the image.

    Args:
        draws: (B, at least `RANDOM_BOX_DRAWS`) float in [0, 1).
        size: height and width of the mask.
        probability: probability that an image gets a box.
        area: range of the area of a box, as a share of the image.
        aspect: range of the aspect ratio, height over width as shares of the image.
    """
    chance, part, shape, place_y, place_x = draws[:, :RANDOM_BOX_DRAWS].split(1, dim=1)  # (B, 1) each
    share = area[0] + (area[1] - area[0]) * part
    flattest, tallest = share.clamp(min=aspect[0]), (1 / share).clamp(max=aspect[1])
    ratio = flattest + (tallest - flattest) * shape
    rows = _interval((share * ratio).sqrt(), place_y, size[0])
    columns = _interval((share / ratio).sqrt(), place_x, size[1])
    is_chosen: Tensor = chance < probability
    return _boxes(rows, columns).squeeze(1) & is_chosen.unsqueeze(-1)


def _boxes(rows: Tensor, columns: Tensor) -> Tensor:
    """Return masks of boxes, (B, N, H, W) bool.

    Args:
        rows: (B, N, H) bool, rows of each box.
        columns: (B, N, W) bool, columns of each box.
    """
    return rows.unsqueeze(-1) & columns.unsqueeze(-2)


def _interval(side: Tensor, place: Tensor, length: int) -> Tensor:
    """Return masks of intervals of round(side * length) pixels, (B, N, length) bool.

    Args:
        side: (B, N) float, length of the interval as a share of the image's.
        place: (B, N) float in [0, 1), position of the interval between both ends.
        length: height or width of the image.
    """
    size = (side * length).round()
    start = (place * (length - size + 1)).floor()
    pixel = torch.arange(length, device=side.device)
    return (pixel >= start.unsqueeze(-1)) & (pixel < (start + size).unsqueeze(-1))
