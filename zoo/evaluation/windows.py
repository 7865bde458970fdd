"""Arithmetic of the protocols: windows, padding and crops."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo.preprocess import Preprocessing

    Image = NDArray[np.uint8]
    Logits = NDArray[np.float32]


def window_starts(length: int, crop: int) -> list[int]:
    """Return the starts of windows of size `crop` along an axis of `length` >= `crop`, at a stride of 2/3.

    Example:
        >>> window_starts(10, 6)
        [0, 4]
        >>> window_starts(11, 6)
        [0, 4, 5]
    """
    stride = math.ceil(crop * 2 / 3)
    count = math.ceil((length - crop) / stride) + 1
    return [min(index * stride, length - crop) for index in range(count)]


def pad(image: Image, preprocessing: Preprocessing) -> Image:
    """Return the image padded with the mean color on the right and bottom to at least the training size."""
    size = np.maximum(image.shape[:2], preprocessing.imgsz)
    padded = np.empty((*size, 3), np.uint8)
    padded[:] = mean_color(preprocessing)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


def mean_color(preprocessing: Preprocessing) -> Image:
    """Return the mean color, (3,) uint8, which normalization maps to about zero."""
    return np.array(preprocessing.color, np.uint8)


def softmax(logits: Logits) -> Logits:
    """Return probabilities over the first axis."""
    powers: Logits = np.exp(logits - logits.max(axis=0, keepdims=True))
    probabilities: Logits = powers / powers.sum(axis=0, keepdims=True)
    return probabilities


def middle(length: int, size: int) -> tuple[slice, slice]:
    """Return the slice of the center `size` of an axis of `length`, and its place in an axis of `size`."""
    extent = min(length, size)
    source, target = (length - extent) // 2, (size - extent) // 2
    return slice(source, source + extent), slice(target, target + extent)
