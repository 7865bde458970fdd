"""Preprocessing of images to the model's input, and resizing of masks to the image's size.

Training, evaluation, every predictor and the exported graph use these functions, so that a model gets the
same input in production as in training. Normalization is part of the exported graph
(`zoo.export.graph.network`), which takes images of the format that the model was trained on
(`zoo.image_format`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar

import numpy as np
from PIL import Image
from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from zoo.errors import InvalidImageError
from zoo.frozen import Frozen
from zoo.image_format import FULL, RGB, ImageFormat, check_finite

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

Resize = Literal["fit", "stretch", "none"]
Label = TypeVar("Label", bound=np.integer)

MIN_IMGSZ = 32
"""Side in pixels of the smallest images that a network can be trained or exported for."""

Channels = tuple[float, ...]
"""One value for each channel."""

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


class Preprocessing(Frozen):
    """Size, resizing and normalization of a network's input.

    Args:
        imgsz: height and width of the training crop, in pixels.
        resize: `fit` scales an image, keeping its aspect ratio, to the largest size inside `imgsz`;
        `stretch` scales it to exactly `imgsz`; `none` keeps its size.
        mean: mean of each channel, images in [0, 1], as the encoder's weights expect it
            (`zoo.models.encoder.normalization_of`), or as measured on images that are not 8-bit RGB.
        std: standard deviation of each channel, images in [0, 1].
        format: format of the images; files of earlier versions are for 8-bit RGB.
    """

    imgsz: tuple[int, int]
    resize: Resize = "fit"
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    format: ImageFormat = RGB

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        if not len(self.mean) == len(self.std) == self.format.channels:
            raise ValueError(
                f"got mean {self.mean} and std {self.std}, expected {self.format.channels} values"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the format of RGB, so that earlier versions can read the file."""
        found: dict[str, Any] = handler(self)
        if self.format.is_rgb:
            found.pop("format", None)
        return found

    @property
    def color(self) -> tuple[float, ...]:
        """Return the mean color, which pads images because normalization maps it to about zero."""
        mean, _ = self.on_scale_of_images
        return tuple(mean if self.format.dtype == "float32" else map(round, mean))

    @property
    def on_scale_of_images(self) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of each channel on the scale of the images."""
        rows = list(zip(self.format.bounds, self.mean, self.std, strict=True))
        mean = [low + mean * (high - low) for (low, high), mean, _ in rows]
        std = [std * (high - low) for (low, high), _, std in rows]
        return mean, std

    def model_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) to which an image of this size is resized."""
        return resized_size((height, width), self.imgsz, self.resize)

    def as_transformers(self) -> dict[str, Any]:
        """Return the settings in the format of transformers' `preprocessor_config.json`, of RGB images."""
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
            **self._as_transformers_scales(),
            "do_normalize": True,
        }

    def _as_transformers_scales(self) -> dict[str, Any]:
        """Return scaling and normalization, one step without clipping unless images are of uint8."""
        if all(bounds == FULL["uint8"] for bounds in self.format.bounds):
            mean, std = list(self.mean), list(self.std)
            return {"do_rescale": True, "rescale_factor": 1 / 255, "image_mean": mean, "image_std": std}
        mean, std = self.on_scale_of_images
        return {"do_rescale": False, "image_mean": mean, "image_std": std}


def resized_size(size: tuple[int, int], imgsz: tuple[int, int], resize: Resize) -> tuple[int, int]:
    """Return the (height, width) that an image of `size` has after `resize`."""
    if resize == "none":
        return size
    if resize == "stretch":
        return imgsz
    (height, width), (high, wide) = size, imgsz  # a product before its quotient: halves are exact
    return min(high, max(1, round(height * wide / width))), min(wide, max(1, round(width * high / height)))


def resize_image(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return the image resized to `size`, bilinear with antialiasing.

    Args:
        image: (H, W, C) uint8, uint16 or float32.
        size: height and width in pixels.
    """
    if image.shape[:2] == size:
        return image
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return _resized(image, size)
    planes = [_resized(image[..., channel].astype(np.float32), size) for channel in range(image.shape[2])]
    resized = np.stack(planes, axis=2)
    return resized if image.dtype == np.float32 else np.rint(resized).astype(image.dtype)


def _resized(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return resized pixels: the horizontal axis first, an order that differs between versions of Pillow."""
    image = Image.fromarray(pixels)
    for sides in ((size[1], pixels.shape[0]), (size[1], size[0])):
        image = image.resize(sides, Image.Resampling.BILINEAR)
    return np.asarray(image)


def resize_mask(mask: NDArray[Label], size: tuple[int, int]) -> NDArray[Label]:
    """Return the mask resized to `size` by nearest neighbor, as a writable array of the same type.

    A pixel whose center lies between two pixels of the mask takes the second one, as in OpenCV's
    `INTER_NEAREST_EXACT`.

    Args:
        mask: (H, W) uint8 or int32.
        size: height and width in pixels.
    """
    if mask.shape == size:
        return mask
    rows, columns = (
        (2 * np.arange(out) + 1) * side // (2 * out) for out, side in zip(size, mask.shape, strict=True)
    )
    resized: NDArray[Label] = mask.take(columns, axis=1).take(rows, axis=0)
    return resized


def check_image(image: NDArray[Any], format_: ImageFormat = RGB) -> None:
    """Raise unless `image` is an image of a format.

    Raises:
        InvalidImageError: another shape or element type, an empty array, or values that are not finite.
    """
    if (
        image.dtype.name != format_.dtype
        or image.ndim != 3
        or image.shape[2] != format_.channels
        or not image.size
    ):
        remedy = "8-bit RGB" if format_.is_rgb else "the images that the model was trained on"
        raise InvalidImageError(
            f"got an image of shape {tuple(image.shape)} and dtype {image.dtype}, expected (height, width, "
            f"{format_.channels}) {format_.dtype}: convert it to {remedy}"
        )
    check_finite(image, "the image")


def normalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return normalized images, the network's input.

    Args:
        images: (B, C, H, W), values as in the arrays of the format, of any type.
        preprocessing: preprocessing whose `mean` and `std` are applied.

    Returns:
        (B, C, H, W) float32.
    """
    images = images.float()
    return channel_statistics(preprocessing, images).normalized(images)


class ChannelStatistics(NamedTuple):
    """Mean, standard deviation and bounds of each channel, (1, C, 1, 1), on the scale of the images."""

    mean: Tensor
    std: Tensor
    low: Tensor | None = None
    """None if no image has values outside its bounds."""
    high: Tensor | None = None

    def normalized(self, images: Tensor) -> Tensor:
        """Return images clipped to the bounds and normalized, (B, C, H, W) float32."""
        images = images.float()
        if self.low is not None and self.high is not None:
            images = images.maximum(self.low).minimum(self.high)
        return (images - self.mean) / self.std


def channel_statistics(preprocessing: Preprocessing, like: Tensor) -> ChannelStatistics:
    """Return mean, standard deviation and bounds of each channel on the scale of the images.

    Args:
        preprocessing: preprocessing whose `mean` and `std` (0..1) are scaled.
        like: float tensor that gives device and dtype; on a GPU, the call synchronizes.
    """
    format_ = preprocessing.format

    def planes(values: Iterable[float]) -> Tensor:
        return like.new_tensor(list(values)).view(1, -1, 1, 1)

    if format_.is_rgb:
        return ChannelStatistics(planes(preprocessing.mean) * 255, planes(preprocessing.std) * 255)
    mean, std = map(planes, preprocessing.on_scale_of_images)
    if not format_.clips:
        return ChannelStatistics(mean, std)
    return ChannelStatistics(mean, std, *map(planes, zip(*format_.bounds, strict=True)))
