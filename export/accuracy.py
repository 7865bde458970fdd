"""Accuracy of an artifact: its change of IoU relative to the eager fp32 model, with intervals over images."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from zoo.classes import IGNORE
from zoo.evaluation.metrics import ConfusionMatrix
from zoo.frozen import Frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo.classes import Mask
    from zoo.predictors.base import Predictor

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)
"""Percentiles of the resamples that bound the 95 % interval."""


class LabeledImages(NamedTuple):
    """Labeled images that are not used for calibration."""

    images: tuple[NDArray[Any], ...]
    """Images, each (H, W, 3) uint8 RGB, of any size."""
    labels: tuple[NDArray[np.uint8], ...]
    """Labels, each (H, W) uint8, 0..K-1 or `IGNORE`."""
    origin: str
    """Description of their source, for the report."""


class Change(Frozen):
    """Change of an IoU.

    Args:
        name: name of the class, or `mIoU`.
        reference: IoU of the eager model, between 0 and 1.
        artifact: IoU of the artifact.
        low: lower bound of the 95 % interval of `artifact` - `reference`.
        high: upper bound of the interval.
    """

    name: str
    reference: float
    artifact: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the change and its interval in points, e.g. `-0.19 [-0.43, +0.06]`."""
        points = (100 * value for value in (self.artifact - self.reference, self.low, self.high))
        return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*points)


class Accuracy(Frozen):
    """Comparison of an artifact with the eager model on labeled images at their own size.

    Args:
        data: description of the images.
        images: number of images.
        agreement: share of labeled pixels to which both assign the same class.
        miou: change of mIoU.
        classes: change of IoU of each class in the labels.
    """

    data: str
    images: int
    agreement: float
    miou: Change
    classes: tuple[Change, ...]

    @property
    def low(self) -> float:
        """Return the lower bound of the change of mIoU."""
        return self.miou.low

    @property
    def high(self) -> float:
        """Return the upper bound of the change of mIoU."""
        return self.miou.high

    @property
    def worse(self) -> tuple[Change, ...]:
        """Return the classes that lost significantly (whole interval below zero), worst first."""
        lost = (change for change in self.classes if change.high < 0)
        return tuple(sorted(lost, key=lambda change: change.artifact - change.reference))


class ReferenceMasks:
    """Masks of the eager model on labeled images, to compare artifacts with.

    Args:
        reference: eager fp32 model.
        labeled: at least one image.
    """

    def __init__(self, reference: Predictor, labeled: LabeledImages) -> None:
        self.labeled = labeled
        self.names = reference.classes.names
        self.masks = [reference.predict(image) for image in labeled.images]
        self.counts = self._count(self.masks)

    def judge(self, artifact: Predictor) -> Accuracy:
        """Return the accuracy of an artifact on the same images."""
        masks = [artifact.predict(image) for image in self.labeled.images]
        same = labeled = 0
        for mask, expected, label in zip(masks, self.masks, self.labeled.labels, strict=True):
            known = label != IGNORE
            labeled += int(known.sum())
            same += int((mask == expected)[known].sum())
        return Accuracy(
            data=self.labeled.origin,
            images=len(masks),
            agreement=same / max(1, labeled),
            **changes(self.names, self.counts, self._count(masks)),
        )

    def _count(self, masks: list[Mask]) -> NDArray[np.int64]:
        pairs = zip(self.labeled.labels, masks, strict=True)
        return np.stack([count(label, mask, len(self.names)) for label, mask in pairs])


def count(label: NDArray[np.uint8], mask: Mask, num_classes: int) -> NDArray[np.int64]:
    """Return (K, 3) pixel counts of each class: intersection, union, label.

    Args:
        label: (H, W), labels 0..K-1 or `IGNORE`; ignored pixels are not counted.
        mask: (H, W), labels 0..K-1.
        num_classes: number of classes, K.
    """
    matrix = ConfusionMatrix(num_classes)
    matrix.update(torch.tensor(label), torch.tensor(mask))
    confusion = matrix.counts.numpy()
    both, actual, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    return np.stack([both, actual + predicted - both, actual], axis=1)


def changes(
    names: tuple[str, ...], reference: NDArray[np.int64], artifact: NDArray[np.int64]
) -> dict[str, Change | tuple[Change, ...]]:
    """Return the changes of `miou` and `classes`, with paired bootstrap intervals over images.

    Args:
        names: names of the K classes.
        reference: (N, K, 3) counts of the eager model on each image, see `count`.
        artifact: (N, K, 3) counts of the artifact.
    """
    number = len(reference)
    draws = np.random.default_rng(0).multinomial(number, [1 / number] * number, size=RESAMPLES)
    shown = reference[:, :, 2].sum(axis=0) > 0
    once = np.ones((1, number), np.int64)
    (before,), (after,) = ious(once, reference)[:, shown], ious(once, artifact)[:, shown]
    difference = ious(draws, artifact)[:, shown] - ious(draws, reference)[:, shown]  # (R, K shown)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class that is missing from a resample is NaN
        lows, highs = np.nanpercentile(difference, INTERVAL, axis=0)
        low, high = np.nanpercentile(np.nanmean(difference, axis=1), INTERVAL)
    rows = zip(np.array(names)[shown].tolist(), before, after, lows, highs, strict=True)
    fields = ("name", "reference", "artifact", "low", "high")
    return {
        "miou": Change(name="mIoU", reference=before.mean(), artifact=after.mean(), low=low, high=high),
        "classes": tuple(Change(**dict(zip(fields, row, strict=True))) for row in rows),
    }


def ious(draws: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (R, K) IoUs, NaN for classes in neither labels nor masks.

    Args:
        draws: (R, N), weight of each image in each resample.
        counts: (N, K, 3) pixel counts, see `count`.
    """
    both, either = (np.tensordot(draws, counts[:, :, part], axes=1) for part in (0, 1))
    result: NDArray[np.float64] = np.full(both.shape, np.nan)
    return np.divide(both, either, out=result, where=either > 0)
