"""Augmentation with torchvision's transforms: weak geometric views, and strong photometric views of these.

The strong view is computed from the weak one, so both show the same pixels and pseudo-labels need no warping.
Padding is `IGNORE` in the mask, like void pixels; a boolean mask distinguishes the two.
"""

from __future__ import annotations

import math
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from zoo.classes import IGNORE
from zoo.image_format import RGB
from zoo.train.data.fast_transforms import Box, adjust_hue, image_part, mask_part

if TYPE_CHECKING:
    from zoo.image_format import ImageFormat
    from zoo.preprocess import Preprocessing
    from zoo.train.recipe.schema import AugmentConfig

RARE_TRIES = 10
"""Largest number of crops tried for one that shows a class, as in DAFormer's rare class sampling."""
RARE_SHARE = 3000 / 512**2
"""Share of a crop that a class must have there."""
BRIGHTNESS, CONTRAST = 0, 1
"""Numbers of adjustments in torchvision's `ColorJitter`."""
BLUR_REACH = 3
"""Radius of the blur kernel, in standard deviations."""


Drawn = tuple[tuple[int, int], Box, tuple[slice, slice]]


class WeakView:
    """Scale to the training size times a random factor, crop with padding, and flip; computes only the crop.

    The random numbers are those of a scale, torchvision's `RandomCrop` and its `RandomHorizontalFlip`, in
    this order.

    Args:
        preprocessing: size of the training crop, kind of resizing, and color of padding.
        config: ranges and probabilities of the augmentation.
    """

    def __init__(self, preprocessing: Preprocessing, config: AugmentConfig) -> None:
        self.preprocessing, self.imgsz, self.scale = preprocessing, preprocessing.imgsz, config.scale
        self.crop = v2.RandomCrop(self.imgsz, pad_if_needed=True)
        self.flip = v2.RandomHorizontalFlip(config.flip)

    def __call__(
        self, image: Tensor, mask: Tensor | None = None, wanted: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the view of an image and its mask, and a mask of the pixels that are not padding.

        Args:
            image: (C, H, W) uint8 or float32.
            mask: (H, W) uint8; None for an unlabeled image.
            wanted: class that the crop of a labeled image should show; None for any crop.

        Returns:
            Image, (C, h, w) of the same type; mask, (h, w) uint8, `IGNORE` in padding; (h, w) bool, False in
            padding.
        """
        if mask is None or wanted is None:
            size, inside, place = self._draw(image)
        else:
            size, inside, place = self._draw_for(wanted, mask)
        view = torch.tensor(self.preprocessing.color, dtype=image.dtype)[:, None, None].repeat(1, *self.imgsz)
        view[:, *place] = image_part(image, size, inside)
        label = torch.full(self.imgsz, IGNORE, dtype=torch.uint8)
        valid = torch.zeros(self.imgsz, dtype=torch.bool)
        valid[place] = True
        if mask is not None:
            label[place] = mask_part(mask, size, inside)
        flipped = self.flip(tv_tensors.Image(view), tv_tensors.Mask(label), tv_tensors.Mask(valid))
        image, label, valid = (each.as_subclass(Tensor) for each in flipped)
        return image, label, valid

    def _draw(self, image: Tensor) -> Drawn:
        """Return the size of the scaled image, the part of it that is in the crop, and its place there."""
        size = self._draw_size(image.shape[-2], image.shape[-1])
        return size, *self._draw_box(size)

    def _draw_for(self, wanted: int, mask: Tensor) -> Drawn:
        """Return the first crop with enough pixels of a class, or the one of all tries that has the most."""
        enough = RARE_SHARE * self.imgsz[0] * self.imgsz[1]
        tried: list[tuple[int, Drawn]] = []
        for _ in range(RARE_TRIES):
            size, inside, place = self._draw(mask)
            tried.append((int((mask_part(mask, size, inside) == wanted).sum()), (size, inside, place)))
            if tried[-1][0] >= enough:
                break
        return max(tried, key=itemgetter(0))[1]

    def _draw_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the scaled image."""
        low, high = self.scale
        factor = low + (high - low) * torch.rand(()).item()
        base = self.preprocessing.model_size(height, width)
        return max(1, round(base[0] * factor)), max(1, round(base[1] * factor))

    def _draw_box(self, size: tuple[int, int]) -> tuple[Box, tuple[slice, slice]]:
        """Return the part of the scaled image that is in the crop, and its place in the crop."""
        stand_in = tv_tensors.Mask(torch.empty(1, 1).expand(size))  # has this size, but no memory
        drawn = self.crop.make_params([stand_in])
        sides = zip(("left", "top"), drawn["padding"][:2], strict=True)
        left, top = (drawn[side] - padding for side, padding in sides)
        rows, columns = (
            (max(0, start), min(whole, start + crop))
            for start, whole, crop in zip((top, left), size, self.imgsz, strict=True)
        )
        inside = Box(rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0])
        return inside, (slice(rows[0] - top, rows[1] - top), slice(columns[0] - left, columns[1] - left))


class ColorJitter(v2.ColorJitter):  # type: ignore[misc] # torchvision has no types
    """Torchvision's transform, with faster hue adjustment of 8-bit images."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Adjust brightness, contrast, saturation and hue, in the sampled order."""
        hue = adjust_hue if inpt.dtype == torch.uint8 else v2.functional.adjust_hue
        changes = (
            (v2.functional.adjust_brightness, params["brightness_factor"]),
            (v2.functional.adjust_contrast, params["contrast_factor"]),
            (v2.functional.adjust_saturation, params["saturation_factor"]),
            (hue, params["hue_factor"]),
        )
        for number in params["fn_idx"].tolist():
            change, factor = changes[number]
            inpt = inpt if factor is None else change(inpt, factor)
        return inpt


class BandJitter(v2.ColorJitter):  # type: ignore[misc] # torchvision has no types
    """Jitter of brightness and contrast for images of any number of channels, whose values are in 0..1.

    Contrast is relative to the mean of each channel.
    """

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Adjust brightness and contrast, in the sampled order."""
        for number in params["fn_idx"].tolist():
            if number == BRIGHTNESS and params["brightness_factor"] is not None:
                inpt = (inpt * params["brightness_factor"]).clamp(0, 1)
            elif number == CONTRAST and params["contrast_factor"] is not None:
                mean = inpt.mean(dim=(-2, -1), keepdim=True)
                inpt = (mean + params["contrast_factor"] * (inpt - mean)).clamp(0, 1)
        return inpt


class InUnitRange:
    """A transform of images on the scale on which their ranges are 0..1, and clipped there.

    Args:
        transform: transform of (C, H, W) float images.
        format_: format with the ranges.
    """

    def __init__(self, transform: v2.Transform, format_: ImageFormat) -> None:
        self.transform = transform
        low, high = torch.tensor(format_.bounds, dtype=torch.float32).unbind(1)
        self.low, self.span = low[:, None, None], (high - low)[:, None, None]

    def __call__(self, image: Tensor) -> Tensor:
        """Return the transformed image, on the scale and of the type of the given one."""
        unit = ((image.float() - self.low) / self.span).clamp(0, 1)
        changed = self.transform(unit) * self.span + self.low
        result: Tensor = changed if image.dtype == torch.float32 else changed.round().to(image.dtype)
        return result


def weak_view(preprocessing: Preprocessing, config: AugmentConfig) -> WeakView:
    """Return the transform of (image, mask) to the training size: scale, crop with padding, flip."""
    return WeakView(preprocessing, config)


def strong_view(config: AugmentConfig, format_: ImageFormat = RGB) -> v2.Transform:
    """Return the transform of a weak view to a strong one: color jitter, grayscale, blur.

    Images of another format than 8-bit RGB are jittered on the scale of their ranges, 0..1. Saturation, hue
    and grayscale are defined for three channels only, which are taken for RGB.
    """
    kernel_size = 2 * math.ceil(BLUR_REACH * config.blur_sigma[1]) + 1
    blur = v2.RandomApply([v2.GaussianBlur(kernel_size, config.blur_sigma)], config.blur)
    has_color = format_.channels == 3
    jitter = (ColorJitter if has_color else BandJitter)(*config.jitter)
    color = [v2.RandomApply([jitter], config.jitter_probability)]
    if has_color:
        color.append(v2.RandomGrayscale(config.grayscale))
    if not format_.is_rgb:
        color = [InUnitRange(v2.Compose(color), format_)]
    return v2.Compose([*color, blur])


def skipped_augmentations(config: AugmentConfig, format_: ImageFormat) -> tuple[str, ...]:
    """Return the names of augmentations of the strong view that are not defined for a format."""
    if format_.channels == 3:
        return ()
    wanted = {"saturation": config.jitter[2], "hue": config.jitter[3], "grayscale": config.grayscale}
    return tuple(name for name, amount in wanted.items() if amount)
