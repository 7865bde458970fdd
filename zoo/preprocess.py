"""Preprocessing of uint8 images to the model's input, and resizing of masks to the image's size.

Training, evaluation, every predictor and the exported graph use these functions, so that a model gets the
same input in production as in training. Normalization is part of the exported graph (`zoo.export.graph`),
which takes uint8 images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from PIL import Image

from zoo.errors import InvalidImageError
from zoo.frozen import Frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Resize = Literal["fit", "stretch", "none"]
Label = TypeVar("Label", bound=np.integer)

MIN_IMGSZ = 32
"""Side in pixels of the smallest images that a network can be trained or exported for."""

Channels = tuple[float, float, float]
"""One value for each RGB channel."""

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


class Preprocessing(Frozen):
    """Size, resizing and normalization of a network's input.

    Args:
        imgsz: height and width of the training crop, in pixels.
        resize: `fit` scales an image, keeping its aspect ratio, to the largest size inside `imgsz`;
        `stretch` scales it to exactly `imgsz`; `none` keeps its size.
        mean: mean of each RGB channel, images in [0, 1], as the encoder's weights expect it
            (`zoo.models.encoder.normalization_of`).
        std: standard deviation of each RGB channel, images in [0, 1].
    """

    imgsz: tuple[int, int]
    resize: Resize = "fit"
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD

    @property
    def color(self) -> tuple[int, int, int]:
        """Return the mean color in 0..255, which pads images because normalization maps it to about zero."""
        red, green, blue = (round(255 * mean) for mean in self.mean)
        return red, green, blue

    def model_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) to which an image of this size is resized."""
        return resized_size((height, width), self.imgsz, self.resize)

    def as_transformers(self) -> dict[str, Any]:
        """Return the settings in the format of transformers' `preprocessor_config.json`."""
        height, width = self.imgsz
        sizes: dict[Resize, dict[str, int]] = {
            "fit": {"max_height": height, "max_width": width},
            "stretch": {"height": height, "width": width},
            "none": {},
        }
        return {
            "do_resize": self.resize != "none",
            "size": sizes[self.resize],
            "resample": int(Image.Resampling.BILINEAR),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


def resized_size(size: tuple[int, int], imgsz: tuple[int, int], resize: Resize) -> tuple[int, int]:
    """Return the (height, width) that an image of `size` has after `resize`."""
    if resize == "none":
        return size
    if resize == "stretch":
        return imgsz
    scale = min(imgsz[0] / size[0], imgsz[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the image resized to `size`, bilinear with antialiasing.

    Args:
        image: (H, W, 3) uint8.
        size: height and width in pixels.
    """
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_mask(mask: NDArray[Label], size: tuple[int, int]) -> NDArray[Label]:
    """Return the mask resized to `size` by nearest neighbor, as a writable array of the same type.

    Args:
        mask: (H, W) uint8 or int32.
        size: height and width in pixels.
    """
    if mask.shape == size:
        return mask
    return np.array(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


def check_image(image: NDArray[np.uint8]) -> None:
    """Raise unless `image` is an RGB image.

    Raises:
        InvalidImageError: not a (H, W, 3) uint8 array, or an empty one.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InvalidImageError(
            f"got an image of shape {tuple(image.shape)} and dtype {image.dtype}, "
            f"expected (height, width, 3) uint8: convert it to 8-bit RGB"
        )


def normalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return normalized images, the network's input.

    Args:
        images: (B, 3, H, W) uint8 or float in 0..255.
        preprocessing: preprocessing whose `mean` and `std` are applied.

    Returns:
        (B, 3, H, W) float32.
    """
    images = images.float()
    mean, std = channel_statistics(preprocessing, images)
    return (images - mean) / std


def channel_statistics(preprocessing: Preprocessing, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel in 0..255, both (1, 3, 1, 1).

    Args:
        preprocessing: preprocessing whose `mean` and `std` (0..1) are scaled.
        like: float tensor that gives device and dtype; on a GPU, the call synchronizes.
    """
    mean = like.new_tensor(preprocessing.mean).view(1, 3, 1, 1) * 255
    std = like.new_tensor(preprocessing.std).view(1, 3, 1, 1) * 255
    return mean, std
