"""Intersection over union and pixel accuracy, from one confusion matrix over all pixels of a split.

For class k, with the counts of the whole split,

    IoU_k = true positives / (true positives + false positives + false negatives)

Pixels labeled `IGNORE` are left out of every count. A class that is neither in the labels nor in the
predictions has no IoU (NaN) and does not enter the mean; a class that is only predicted has IoU 0 and does.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zoo.classes import IGNORE, Classes


class ConfusionMatrix:
    """Counts of (label, prediction) pairs, kept on one device.

    `counts` is (K, K) int64, a row for each label and a column for each prediction. The matrix of two sets of
    images is the sum of theirs, so that processes merge by an all-reduce of `counts`.

    Args:
        num_classes: K.
        device: where `counts` lives and the tensors of `update` are moved to.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, label: Tensor, prediction: Tensor) -> None:
        """Count the pixels of a batch.

        Args:
            label: any shape, uint8 or int64, 0..K-1 or `IGNORE`.
            prediction: the same shape, uint8 or int64, 0..K-1.
        """
        k = self.num_classes
        label = label.to(self.counts.device).long()
        prediction = prediction.to(self.counts.device).long()
        # ignored pixels get a bin of their own: selecting the others would copy both tensors
        pair = torch.where(label == IGNORE, k * k, label * k + prediction)
        self.counts += torch.bincount(pair.flatten(), minlength=k * k + 1)[: k * k].view(k, k)

    def iou(self) -> Tensor:
        """Return the (K,) float64 IoU of each class, NaN where it is absent from labels and predictions."""
        correct = self.counts.diag().double()
        union = self.counts.sum(dim=0) + self.counts.sum(dim=1) - correct
        return correct / union  # 0 / 0 is NaN: the class is absent

    def miou(self) -> float:
        """Return the mean IoU of the classes that are present, NaN if there is none."""
        return float(self.iou().nanmean())

    def pixel_accuracy(self) -> float:
        """Return the share of the pixels that are predicted right, NaN if all were ignored."""
        return float(self.counts.diag().sum() / self.counts.sum())

    def as_dict(self, classes: Classes) -> dict[str, Any]:
        """Return `miou`, `pixel_accuracy` and `iou` by class name, None for NaN, ready for JSON."""
        iou = dict(zip(classes.names, map(_number, self.iou().tolist()), strict=True))
        return {"miou": _number(self.miou()), "pixel_accuracy": _number(self.pixel_accuracy()), "iou": iou}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
