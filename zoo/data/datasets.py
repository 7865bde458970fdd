"""Torch data sets of a source's images, without augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from zoo.classes import IGNORE
from zoo.data.tags import tags_of_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zoo.data.partition import Partition
    from zoo.data.source import Source


Item = TypeVar("Item")


class _Images(Dataset[Item]):
    """Some images of a source.

    Args:
        source: source of the images.
        ids: ids of the images, in order.
    """

    def __init__(self, source: Source, ids: Sequence[str]) -> None:
        self.source = source
        self.ids = tuple(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def _image(self, index: int) -> tv_tensors.Image:
        image = self.source.read_image(self.ids[index])  # (H, W, C)
        # float32 holds all uint16 values, which torch cannot resize
        pixels = _tensor(image.astype(np.float32) if image.dtype == np.uint16 else image)
        # channels-last memory: three times as fast to resize
        return tv_tensors.Image(pixels.permute(2, 0, 1))


class LabeledImages(_Images[tuple[tv_tensors.Image, tv_tensors.Mask]]):
    """Images with their masks: (C, H, W) uint8 or float32 and (H, W) uint8."""

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        return self._image(index), tv_tensors.Mask(_tensor(self.source.read_mask(self.ids[index])))


class TaggedImages(_Images[tuple[tv_tensors.Image, tv_tensors.Mask, Tensor]]):
    """Labeled and tagged images with their masks and (K,) bool tags; masks of tagged images are all `IGNORE`.

    Args:
        source: source of the images.
        partition: partition whose labeled images come first, then its tagged images.
    """

    def __init__(self, source: Source, partition: Partition) -> None:
        super().__init__(source, (*partition.labeled, *partition.tags))
        self.tags = partition.tags

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask, Tensor]:
        image, labels = self._image(index), self.tags.get(self.ids[index])
        count = len(self.source.classes)
        if labels is None:
            mask = self.source.read_mask(self.ids[index])
            return image, tv_tensors.Mask(_tensor(mask)), torch.from_numpy(tags_of_mask(mask, count))
        unknown = torch.full(image.shape[-2:], IGNORE, dtype=torch.uint8)
        return image, tv_tensors.Mask(unknown), torch.tensor([label in labels for label in range(count)])


class UnlabeledImages(_Images[tv_tensors.Image]):
    """Images alone, (C, H, W) uint8 or float32; masks are never read."""

    def __getitem__(self, index: int) -> tv_tensors.Image:
        return self._image(index)


def _tensor(pixels: NDArray[Any]) -> Tensor:
    """Return an array as a tensor that shares its memory; read-only arrays, as from Pillow, are copied."""
    return torch.from_numpy(pixels) if pixels.flags.writeable else torch.tensor(pixels)
