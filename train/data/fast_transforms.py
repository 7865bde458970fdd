"""Fast resizing of a part of an image, and hue adjustment, bit-identical to torchvision.

Resizing runs horizontally, then vertically, with rounding to uint8 after each pass, so that rows that a part
does not need can be left out of the first pass, and other columns out of the second.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as F

MARGIN = 2
"""Additional rows beyond the kernel's reach, to be safe against rounding."""

LEAST = 1e-3
"""Divisor for gray pixels, smaller than any difference of 8-bit values, which avoids dividing 0 by 0."""

SIXTHS = 6


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def image_part(image: Tensor, size: tuple[int, int], box: Box) -> Tensor:
    """Return a part of the image resized to `size`, bilinear with antialiasing.

    Args:
        image: (C, H, W) uint8 or float32; fastest as RGB of uint8 in channels-last memory.
        size: height and width of the whole resized image.
        box: part of the resized image.

    Returns:
        (C, h, w), of the type of the image.
    """
    rows = slice(box.top, box.top + box.height)
    columns = slice(box.left, box.left + box.width)
    if size == image.shape[1:]:
        return image[:, rows, columns]
    if image.dtype != torch.uint8 or len(image) != 3 or not _passes_are_apart():
        return _resized(image, *size)[:, rows, columns]
    return _in_two_passes(image, size, box)


def mask_part(mask: Tensor, size: tuple[int, int], box: Box) -> Tensor:
    """Return a part of the mask resized to `size` by nearest neighbor.

    Args:
        mask: (H, W) uint8.
        size: height and width of the whole resized mask.
        box: part of the resized mask.

    Returns:
        (h, w) uint8.
    """
    rows = _nearest(mask.shape[0], size[0])[box.top : box.top + box.height]
    columns = _nearest(mask.shape[1], size[1])[box.left : box.left + box.width]
    # numpy's take is four times as fast as indexing in torch
    return torch.from_numpy(mask.numpy().take(rows.numpy(), 0).take(columns.numpy(), 1))


def _in_two_passes(image: Tensor, size: tuple[int, int], box: Box) -> Tensor:
    height = image.shape[1]
    first, last = _reach(box.top, box.top + box.height, height, size[0])
    wide = _resized(image[:, first:last], last - first, size[1])
    # full height, on which the weights of a row depend; rows that the part does not need stay empty
    canvas = torch.empty((height, box.width, len(image)), dtype=image.dtype).permute(2, 0, 1)
    canvas[:, first:last] = wide[:, :, box.left : box.left + box.width]
    return _resized(canvas, size[0], box.width)[:, box.top : box.top + box.height]


def _reach(first: int, last: int, old: int, new: int) -> tuple[int, int]:
    """Return the range of rows, of `old`, that the resized rows `first` to `last`, of `new`, depend on."""
    scale = old / new
    reach = max(1.0, scale)
    low = math.floor((first + 0.5) * scale - reach) - MARGIN
    high = math.ceil((last - 0.5) * scale + reach) + MARGIN
    return max(0, low), min(old, high)


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    result: Tensor = F.resize_image(image, [height, width], antialias=True)
    return result


def _nearest(old: int, new: int) -> Tensor:
    """Return the indices, of `old` pixels, of the nearest neighbors of `new` pixels, as in torch."""
    numbers = torch.arange(old)
    two_bytes = torch.stack([numbers & 255, numbers >> 8]).to(torch.uint8)  # torch interpolates only bytes
    low, high = interpolate(two_bytes[None, :, None], size=[1, new], mode="nearest-exact")[0, :, 0].long()
    pixels: Tensor = low + 256 * high
    return pixels


@cache
def _passes_are_apart() -> bool:
    """Return whether torch rounds after each of the two passes on this processor, and not only at the end."""
    image = torch.randint(256, (3, 33, 47), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes, box = ((57, 31), (19, 80)), Box(3, 5, 16, 25)
    return all(
        torch.equal(_in_two_passes(image, size, box), _resized(image, *size)[:, 3:19, 5:30]) for size in sizes
    )


def adjust_hue(image: Tensor, factor: float) -> Tensor:
    """Return an image with its hue shifted.

    Args:
        image: (3, H, W) uint8.
        factor: share of a full turn, in [-0.5, 0.5].
    """
    image = image.as_subclass(Tensor)
    high = torch.maximum(torch.maximum(*image[:2]), image[2])
    low = torch.minimum(torch.minimum(*image[:2]), image[2])
    value = _float(high)
    extent = value - _float(low)
    saturation = extent / value.clamp_min(LEAST)
    hue = _hue(image, high, value, extent.clamp_min_(LEAST)).add_(factor)
    sixth = hue.sub_(hue.floor()).mul_(SIXTHS)
    whole = sixth.floor()
    falling, rising, least = _edges(value, saturation, sixth.sub_(whole))
    return _joined(whole.to(torch.uint8), high, falling, rising, least)


def _float(image: Tensor) -> Tensor:
    result: Tensor = F.to_dtype_image(image, torch.float32, scale=True)
    return result


def _byte(image: Tensor) -> Tensor:
    result: Tensor = F.to_dtype_image(image.clamp_(0.0, 1.0), torch.uint8, scale=True)
    return result


def _hue(image: Tensor, high: Tensor, value: Tensor, extent: Tensor) -> Tensor:
    """Return the hue of each pixel, (H, W) float in [0, 1)."""
    is_red = high == image[0]
    is_green = (high == image[1]) & ~is_red
    is_blue = ~(is_red | is_green)
    red, green, blue = (value - _float(image)).div_(extent)
    hue: Tensor = (blue - green).mul_(is_red)
    hue += (red + 2.0).sub_(blue).mul_(is_green)
    hue += green.add_(4.0).sub_(red).mul_(is_blue)
    hue.mul_(1.0 / SIXTHS).add_(1.0).frac_()
    return hue


def _edges(value: Tensor, saturation: Tensor, part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the possible values of a channel besides the maximum, uint8: falling, rising, least."""
    faded = saturation * part
    rest = 1.0 - saturation
    falling = (1.0 - faded).mul_(value)
    rising = faded.add_(rest).mul_(value)
    return _byte(falling), _byte(rising), _byte(rest.mul_(value))


def _joined(sixth: Tensor, value: Tensor, falling: Tensor, rising: Tensor, least: Tensor) -> Tensor:
    """Return an RGB image, (3, H, W) uint8, from sixths of the color circle (6 is 0) and channel values."""
    sixth.mul_(sixth != SIXTHS)
    is_in = [(sixth == number).view(torch.uint8).neg_() for number in range(SIXTHS)]  # 255 if true, else 0
    channels = []
    for shift in (0, 2, 4):  # green follows red by a third of the circle, and blue green
        at = [is_in[(number + shift) % SIXTHS] for number in range(SIXTHS)]
        channel = value & (at[5] | at[0])
        channel |= falling & at[1]
        channel |= least & (at[2] | at[3])
        channel |= rising & at[4]
        channels.append(channel)
    return torch.stack(channels)
