"""CutMix for segmentation (French et al., BMVC 2020): rectangles of one image are pasted into another.

Where boxes lie follows from numbers that come with the images (`Batch.draws_u`), so that an image has its
boxes whichever process mixes it, in a resumed run too. Nothing makes the host wait for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

RANDOM_BOX_DRAWS = 5
"""Random numbers that `random_box` takes."""


def cutmix(into: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Return `into` with the masked pixels of `other`.

    Args:
        into: (B, C, H, W) images or (B, H, W) label maps, any dtype.
        other: of the same shape.
        mask: (B, H, W) bool, True where `other` is taken.
    """
    return torch.where(mask if into.ndim == 3 else mask.unsqueeze(1), other, into)


def mixed(value: Tensor, box: Tensor) -> Tensor:
    """Return each image or map with the box of the next one of its batch.

    Args:
        value: (B, C, H, W) or (B, H, W), any dtype.
        box: (B, H, W) bool.
    """
    return cutmix(value, value.roll(-1, dims=0), box)


def toggled_boxes(
    draws: Tensor, size: tuple[int, ...], boxes: int = 3, area: tuple[float, float] = (0.25, 0.5)
) -> Tensor:
    """Return a mask of several random boxes for each image, (B, H, W) bool; overlaps cancel (CPS, RRN).

    Each box has an area drawn from `area` over the number of boxes, and a random aspect.

    Args:
        draws: (B, at least 4 * boxes) float in [0, 1).
        size: (H, W).
        boxes: for each image.
        area: range of the share of the image that all boxes would cover, were they disjoint.
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
    """Return a mask of one box of half the image's area, (B, H, W) bool, empty by chance (U2PL).

    Args:
        draws: (B, at least 4) float in [0, 1).
        size: (H, W).
        probability: that an image gets a box.
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
    """Return a mask of one box of random area and aspect for each image, (B, H, W) bool, empty by chance.

    It is UniMatch's box, of the aspects with which its area fits into the image.

    Args:
        draws: (B, at least `RANDOM_BOX_DRAWS`) float in [0, 1).
        size: (H, W).
        probability: that an image gets a box.
        area: range of the share of the image.
        aspect: range of the box's share of the height over that of the width.
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
    """Return boxes, (B, N, H, W) bool.

    Args:
        rows: (B, N, H) bool.
        columns: (B, N, W) bool.
    """
    return rows.unsqueeze(-1) & columns.unsqueeze(-2)


def _interval(side: Tensor, place: Tensor, length: int) -> Tensor:
    """Return (B, N, length) bool, True in a run of round(side * length) places.

    Args:
        side: (B, N) float, the run's share of the length.
        place: (B, N) float in [0, 1), where between both ends it starts.
        length: of the image.
    """
    size = (side * length).round()
    start = (place * (length - size + 1)).floor()
    pixel = torch.arange(length, device=side.device)
    return (pixel >= start.unsqueeze(-1)) & (pixel < (start + size).unsqueeze(-1))
