"""Intersection over union and pixel accuracy, from a confusion matrix of all pixels of a split.

For class k, with counts over the whole split,

    IoU_k = true positives / (true positives + false positives + false negatives)

Pixels labeled `IGNORE` are not counted. A class that no label shows has no IoU (NaN) and is left out of the
mean, whether it is predicted or not: all models on the same images share one denominator. Where it is
predicted, it lowers the IoU of the true classes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zoo.classes import IGNORE, Classes


class ConfusionMatrix:
    """Counts of (label, prediction) pairs, kept on one device.

    `counts` is (K, K) int64, with a row for each label and a column for each prediction. Matrices of disjoint
    sets of images add up, so that processes merge by an all-reduce of `counts`.

    Args:
        num_classes: number of classes K.
        device: device of `counts`, to which the tensors of `update` are moved.
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
        # ignored pixels get an extra bin: selecting the others would copy both tensors
        pair = torch.where(label == IGNORE, k * k, label * k + prediction)
        self.counts += torch.bincount(pair.flatten(), minlength=k * k + 1)[: k * k].view(k, k)

    def iou(self) -> Tensor:
        """Return the IoU of each class, (K,) float64, NaN for classes that no label shows."""
        correct, labeled = self.counts.diag().double(), self.counts.sum(dim=1)
        union = self.counts.sum(dim=0) + labeled - correct
        return torch.where(labeled > 0, correct / union, torch.nan)

    def miou(self) -> float:
        """Return the mean IoU of the classes that labels show; NaN if there are none."""
        return float(self.iou().nanmean())

    def pixel_accuracy(self) -> float:
        """Return the share of correctly predicted pixels; NaN if all are ignored."""
        return float(self.counts.diag().sum() / self.counts.sum())

    def as_dict(self, classes: Classes) -> dict[str, Any]:
        """Return `miou`, `pixel_accuracy` and `iou` by class name, None for NaN, ready for JSON."""
        iou = dict(zip(classes.names, map(_number, self.iou().tolist()), strict=True))
        return {"miou": _number(self.miou()), "pixel_accuracy": _number(self.pixel_accuracy()), "iou": iou}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
