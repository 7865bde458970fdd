"""Torch data sets over a source: images as they are, without augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.data.source import Source


class LabeledImages(Dataset[tuple[tv_tensors.Image, tv_tensors.Mask]]):
    """Images with their masks: (3, H, W) uint8 and (H, W) uint8.

    Args:
        source: where they are read.
        ids: which of them, in order.
    """

    def __init__(self, source: Source, ids: Sequence[str]) -> None:
        self.source = source
        self.ids = tuple(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        id_ = self.ids[index]
        # a copy: arrays of Pillow are read-only
        mask = tv_tensors.Mask(torch.tensor(self.source.read_mask(id_)))
        return _image(self.source, id_), mask


class UnlabeledImages(Dataset[tv_tensors.Image]):
    """Images alone: (3, H, W) uint8; masks, if there are any, are not read.

    Args:
        source: where they are read.
        ids: which of them, in order.
    """

    def __init__(self, source: Source, ids: Sequence[str]) -> None:
        self.source = source
        self.ids = tuple(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tv_tensors.Image:
        return _image(self.source, self.ids[index])


def _image(source: Source, id_: str) -> tv_tensors.Image:
    pixels = torch.tensor(source.read_image(id_))  # (H, W, 3)
    return tv_tensors.Image(pixels.permute(2, 0, 1).contiguous())
