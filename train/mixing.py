"""CutMix for segmentation (French et al., BMVC 2020): rectangles of one image are pasted into another.

All numbers are drawn on the images' device; nothing makes the host wait for it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cutmix(into: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Return `into` with the masked pixels of `other`.

    Args:
        into: (B, C, H, W) images or (B, H, W) label maps, any dtype.
        other: of the same shape.
        mask: (B, H, W) bool, True where `other` is taken.
    """
    return torch.where(mask if into.ndim == 3 else mask.unsqueeze(1), other, into)


def toggled_boxes(image: Tensor, boxes: int = 3, area: tuple[float, float] = (0.25, 0.5)) -> Tensor:
    """Return a mask of several random boxes for each image, (B, H, W) bool; overlaps cancel (CPS, RRN).

    Each box has an area drawn from `area` over the number of boxes, and a random aspect.

    Args:
        image: (B, C, H, W); its shape and device are used.
        boxes: for each image.
        area: range of the share of the image that all boxes would cover, were they disjoint.
    """
    low, high = area
    count = (len(image), boxes)
    share = low + (high - low) * torch.rand(count, device=image.device)
    side_y = share ** torch.rand(count, device=image.device)
    scale = boxes**-0.5
    inside = _box_mask(image, side_y * scale, share / side_y * scale)  # (B, boxes, H, W)
    return inside.sum(dim=1) % 2 == 1


def half_area_box(image: Tensor, probability: float) -> Tensor:
    """Return a mask of one box of half the image's area, (B, H, W) bool, empty by chance (U2PL).

    Args:
        image: (B, C, H, W); its shape and device are used.
        probability: that an image gets a box.
    """
    chosen = torch.rand(len(image), 1, 1, device=image.device) < probability
    side_x = (1 + torch.rand(len(image), 1, device=image.device)) / 2
    return _box_mask(image, 0.5 / side_x, side_x).squeeze(1) & chosen


def _box_mask(image: Tensor, side_y: Tensor, side_x: Tensor) -> Tensor:
    """Return boxes at random places inside the image, (B, N, H, W) bool.

    Args:
        image: (B, C, H, W).
        side_y: (B, N) float, height of each box as a share of the image's.
        side_x: (B, N) float, its width.
    """
    rows = _interval(side_y, image.shape[-2])
    columns = _interval(side_x, image.shape[-1])
    return rows.unsqueeze(-1) & columns.unsqueeze(-2)


def _interval(side: Tensor, length: int) -> Tensor:
    """Return (B, N, length) bool, True in a run of round(side * length) places that starts anywhere."""
    size = (side * length).round()
    start = (torch.rand(side.shape, device=side.device) * (length - size + 1)).floor()
    place = torch.arange(length, device=side.device)
    return (place >= start.unsqueeze(-1)) & (place < (start + size).unsqueeze(-1))
