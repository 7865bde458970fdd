"""Torchvision's change of hue, bit by bit, in a third of the time: choices are bytes rather than indices.

`torchvision.transforms.v2.functional.adjust_hue` picks the channels of each pixel by an index of int64, which
took most of the time of a strong view. Here the parts of a pixel become uint8 first and are joined by masks;
every floating point operation that decides a value is torchvision's, in its order.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

LEAST = 1e-3
"""Below the least difference of two values of 8 bits; keeps a gray pixel from dividing 0 by 0."""
SIXTHS = 6


def adjust_hue(image: Tensor, factor: float) -> Tensor:
    """Return an image whose hue is turned.

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
    """Return what a channel can be but the value itself, uint8: falling, rising, least."""
    faded = saturation * part
    rest = 1.0 - saturation
    falling = (1.0 - faded).mul_(value)
    rising = faded.add_(rest).mul_(value)
    return _byte(falling), _byte(rising), _byte(rest.mul_(value))


def _joined(sixth: Tensor, value: Tensor, falling: Tensor, rising: Tensor, least: Tensor) -> Tensor:
    """Return the pixels whose hue lies in a sixth of the circle, 6 the same as 0; all (H, W) uint8."""
    sixth.mul_(sixth != SIXTHS)
    is_in = [(sixth == number).view(torch.uint8).neg_() for number in range(SIXTHS)]  # 255 where so, else 0
    channels = []
    for shift in (0, 2, 4):  # green does as red does a third of the circle later, blue as green
        at = [is_in[(number + shift) % SIXTHS] for number in range(SIXTHS)]
        channel = value & (at[5] | at[0])
        channel |= falling & at[1]
        channel |= least & (at[2] | at[3])
        channel |= rising & at[4]
        channels.append(channel)
    return torch.stack(channels)
