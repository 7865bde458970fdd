"""Torch data sets over a source: images as they are, without augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.data.source import Source


Item = TypeVar("Item")


class _Images(Dataset[Item]):
    """Some images of a source.

    Args:
        source: where they are read.
        ids: which of them, in order.
    """

    def __init__(self, source: Source, ids: Sequence[str]) -> None:
        self.source = source
        self.ids = tuple(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def _image(self, index: int) -> tv_tensors.Image:
        # torch.tensor copies: arrays of Pillow are read-only
        pixels = torch.tensor(self.source.read_image(self.ids[index]))  # (H, W, 3)
        return tv_tensors.Image(pixels.permute(2, 0, 1).contiguous())


class LabeledImages(_Images[tuple[tv_tensors.Image, tv_tensors.Mask]]):
    """Images with their masks: (3, H, W) uint8 and (H, W) uint8."""

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        return self._image(index), tv_tensors.Mask(torch.tensor(self.source.read_mask(self.ids[index])))


class UnlabeledImages(_Images[tv_tensors.Image]):
    """Images alone: (3, H, W) uint8; masks, if there are any, are not read."""

    def __getitem__(self, index: int) -> tv_tensors.Image:
        return self._image(index)
