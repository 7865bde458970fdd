"""What an artifact costs in accuracy: its change of IoU against the eager fp32 model, image by image."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

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
"""Percentiles between which 95 % of the resamples lie."""


class LabeledImages(NamedTuple):
    """Images that no artifact was calibrated on, with their masks."""

    images: tuple[NDArray[np.uint8], ...]
    """Each (H, W, 3) uint8 RGB, of any size."""
    labels: tuple[NDArray[np.uint8], ...]
    """Each (H, W) uint8, labels 0..K-1 or `IGNORE`."""
    origin: str
    """Where they came from, for the report."""


class Change(Frozen):
    """How an IoU changed.

    Args:
        name: of the class, or `mIoU`.
        reference: of the eager model, between 0 and 1.
        artifact: of the artifact.
        low: the lower end of the 95 % interval of `artifact` - `reference`.
        high: its upper end.
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
    """An artifact beside the eager model, on labeled images at their own size.

    Args:
        data: where they came from.
        images: their number.
        agreement: share of labeled pixels to which both give the same class.
        miou: its change.
        classes: the change of each class that the labels show.
    """

    data: str
    images: int
    agreement: float
    miou: Change
    classes: tuple[Change, ...]

    @property
    def low(self) -> float:
        """Return the lower end of the interval of the change of mIoU."""
        return self.miou.low

    @property
    def high(self) -> float:
        """Return its upper end."""
        return self.miou.high

    @property
    def worse(self) -> tuple[Change, ...]:
        """Return the classes that lost for certain: whose whole interval is below zero, worst first."""
        lost = (change for change in self.classes if change.high < 0)
        return tuple(sorted(lost, key=lambda change: change.artifact - change.reference))


class Judge:
    """The eager model's masks of labeled images, with which artifacts are compared.

    Args:
        reference: the eager fp32 model.
        labeled: at least one image.
    """

    def __init__(self, reference: Predictor, labeled: LabeledImages) -> None:
        self.labeled = labeled
        self.names = reference.classes.names
        self.masks = [reference.predict(image) for image in labeled.images]
        self.counts = self._count(self.masks)

    def judge(self, artifact: Predictor) -> Accuracy:
        """Return how an artifact does on the same images."""
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
    """Return (K, 3) numbers of pixels of each class: where both have it, where either has it, in the label.

    Args:
        label: (H, W), labels 0..K-1 or `IGNORE`, whose pixels are left out.
        mask: (H, W), labels 0..K-1.
        num_classes: K.
    """
    matrix = ConfusionMatrix(num_classes)
    matrix.update(torch.tensor(label), torch.tensor(mask))
    confusion = matrix.counts.numpy()
    both, actual, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    return np.stack([both, actual + predicted - both, actual], axis=1)


def changes(
    names: tuple[str, ...], reference: NDArray[np.int64], artifact: NDArray[np.int64]
) -> dict[str, Change | tuple[Change, ...]]:
    """Return the change of `miou` and of the `classes`, with paired bootstrap intervals over images.

    Args:
        names: of K classes.
        reference: (N, K, 3) of `count`, of the eager model on each image.
        artifact: the same of the artifact.
    """
    number = len(reference)
    draws = np.random.default_rng(0).multinomial(number, [1 / number] * number, size=RESAMPLES)
    shown = reference[:, :, 2].sum(axis=0) > 0
    once = np.ones((1, number), np.int64)
    (before,), (after,) = ious(once, reference)[:, shown], ious(once, artifact)[:, shown]
    difference = ious(draws, artifact)[:, shown] - ious(draws, reference)[:, shown]  # (R, K shown)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class that a resample does not show is NaN there
        lows, highs = np.nanpercentile(difference, INTERVAL, axis=0)
        low, high = np.nanpercentile(np.nanmean(difference, axis=1), INTERVAL)
    rows = zip(np.array(names)[shown].tolist(), before, after, lows, highs, strict=True)
    fields = ("name", "reference", "artifact", "low", "high")
    return {
        "miou": Change(name="mIoU", reference=before.mean(), artifact=after.mean(), low=low, high=high),
        "classes": tuple(Change(**dict(zip(fields, row, strict=True))) for row in rows),
    }


def ious(draws: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (R, K) IoUs, NaN where neither labels nor masks have a class.

    Args:
        draws: (R, N), how often each image counts.
        counts: (N, K, 3).
    """
    both, either = (np.tensordot(draws, counts[:, :, part], axes=1) for part in (0, 1))
    result: NDArray[np.float64] = np.full(both.shape, np.nan)
    return np.divide(both, either, out=result, where=either > 0)
