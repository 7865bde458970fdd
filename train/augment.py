"""Augmentation with torchvision's transforms: a weak geometric view, and a strong photometric one of it.

The strong view is made from the weak one, so both show the same pixels and pseudo-labels need no warping.
Padding carries `IGNORE` in the mask; an unlabeled image travels with a mask of zeros, in which only padding
is `IGNORE`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from zoo.classes import IGNORE
from zoo.preprocess import IMAGENET_MEAN, Resize, resized_size

PADDING_COLOR = tuple(round(255 * mean) for mean in IMAGENET_MEAN)

BLUR_REACH = 3
"""Standard deviations at which the kernel of a blur ends."""


Factor = Annotated[float, Field(gt=0)]
Strength = Annotated[float, Field(ge=0)]
HueStrength = Annotated[float, Field(ge=0, le=0.5)]


class AugmentConfig(BaseModel):
    """Settings of both views.

    Args:
        scale: range of the random scale, on top of `resize`.
        flip: probability of a horizontal flip.
        jitter: strength of brightness, contrast, saturation and hue changes.
        jitter_probability: of the colour jitter.
        grayscale: probability of dropping the colours.
        blur: probability of a Gaussian blur.
        blur_sigma: range of its standard deviation, in pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: tuple[Factor, Factor] = (0.5, 2.0)
    flip: float = Field(0.5, ge=0, le=1)
    jitter: tuple[Strength, Strength, Strength, HueStrength] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: float = Field(1.0, ge=0, le=1)
    grayscale: float = Field(0.2, ge=0, le=1)
    blur: float = Field(0.0, ge=0, le=1)
    blur_sigma: tuple[Factor, Factor] = (0.1, 2.0)


class RandomScale(v2.Transform):  # type: ignore[misc] # torchvision has no types
    """Resize to the training size times a random factor.

    Args:
        imgsz: (height, width) of the training crop.
        resize: how an image is brought to `imgsz`, see `zoo.preprocess.Preprocessing`.
        scale: range of the factor.
    """

    def __init__(self, imgsz: tuple[int, int], resize: Resize, scale: tuple[float, float]) -> None:
        super().__init__()
        self.imgsz, self.resize, self.scale = imgsz, resize, scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the size that all inputs are resized to."""
        height, width = v2.functional.get_size(flat_inputs[0])
        low, high = self.scale
        factor = low + (high - low) * torch.rand(()).item()
        base = resized_size((height, width), self.imgsz, self.resize)
        return {"size": [max(1, round(base[0] * factor)), max(1, round(base[1] * factor))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize: images bilinear with antialiasing, masks nearest."""
        if isinstance(inpt, tv_tensors.Mask):
            # torchvision's nearest for masks lies up to half a pixel off the image
            plane = inpt.as_subclass(Tensor).unsqueeze(0)
            exact = v2.InterpolationMode.NEAREST_EXACT
            return tv_tensors.Mask(v2.functional.resize_image(plane, params["size"], exact).squeeze(0))
        return v2.functional.resize(inpt, params["size"], antialias=True)


def weak_view(imgsz: tuple[int, int], resize: Resize, config: AugmentConfig) -> v2.Transform:
    """Return the transform of (image, mask) to (height, width) `imgsz`: scale, crop with padding, flip."""
    crop = v2.RandomCrop(
        imgsz, pad_if_needed=True, fill={tv_tensors.Image: PADDING_COLOR, tv_tensors.Mask: IGNORE}
    )
    flip = v2.RandomHorizontalFlip(config.flip)
    return v2.Compose([RandomScale(imgsz, resize, config.scale), crop, flip])


def strong_view(config: AugmentConfig) -> v2.Transform:
    """Return the transform of a weak view to its strong one: colour jitter, greyscale, blur."""
    brightness, contrast, saturation, hue = config.jitter
    jitter = v2.ColorJitter(brightness, contrast, saturation, hue)
    kernel_size = 2 * math.ceil(BLUR_REACH * config.blur_sigma[1]) + 1
    blur = v2.GaussianBlur(kernel_size, config.blur_sigma)
    return v2.Compose(
        [
            v2.RandomApply([jitter], config.jitter_probability),
            v2.RandomGrayscale(config.grayscale),
            v2.RandomApply([blur], config.blur),
        ]
    )
