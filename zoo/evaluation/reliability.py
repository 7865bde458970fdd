"""Metrics of reliability: calibration errors, ranking of errors, and the mIoU of the most reliable pixels.

With r the reliability of a pixel, and right 1 if its predicted class is its label, else 0:

    ECE     sum over 15 bins of r, of equal width: share of pixels x |mean of r - mean of right|
    Brier   mean of (r - right)^2
    AUROC   probability that a right pixel has a higher score than a wrong one; ties count half
    AURC    mean over all coverages c of the risk, the share of wrong pixels among the share c of pixels
            with the highest scores (Geifman et al., ICLR 2019)

Where a coverage cuts through pixels of one score, it keeps the same share of each: the expectation of a
random choice. Intervals are percentiles over resampled images (bootstrap), since the pixels of an image are
not independent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from zoo.bundle.reliability import FROM_LOGITS, OWN, Calibration
from zoo.evaluation.cost import output_costs
from zoo.evaluation.metrics import ConfusionMatrix
from zoo.evaluation.scored import BINS, CENTERS, bin_of, scored_images

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from zoo.bundle.reliability import Reliability
    from zoo.data.source import Source, Split
    from zoo.evaluation.evaluate import Progress
    from zoo.predictors.base import Predictor

    Floats = NDArray[np.float64]

UNCALIBRATED = "uncalibrated"
"""The largest softmax probability as it is."""
DIAGRAM = 15
"""Bins of the calibration error and of the reliability diagram."""
COVERAGES = 1.0, 0.95, 0.9, 0.8
CURVE = tuple(round(0.05 * step, 2) for step in range(1, 21))
"""Coverages of the risk-coverage curve."""
CURVES = "ece_by_class", "diagram", "risk_coverage"
"""Metrics of a score that are more than one number."""
RESAMPLES = 400
PERCENTILES = 2.5, 97.5


def measure_reliability(
    predictor: Predictor,
    source: Source,
    split: Split = "val",
    protocol: str = "whole",
    fitted: Reliability | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the metrics of each score of a model on labeled images, ready for JSON.

    Args:
        predictor: predictor with logits.
        source: source with the same classes, of images that the calibration was not fitted on.
        split: split of the source.
        protocol: protocol that scores the pixels of one forward pass.
        fitted: calibrations of the model; None for the uncalibrated score alone.
        on_progress: called after every image.

    Returns:
        The number of images and pixels; `scores`: metrics by score, `UNCALIBRATED` first; `costs`: time of
        mask and reliability over that of the mask alone, by score; `advice`: whether a costlier score is
        better, None if there is none.

    Raises:
        DatasetError: a split without labeled images, or classes that differ from the predictor's.
        ZooError: a predictor without logits, or another protocol.
    """
    calibrations: dict[str, Calibration] = {UNCALIBRATED: Calibration(score="softmax")}
    if fitted is not None:
        calibrations.update(fitted.calibrations.items())
    classes = len(predictor.classes)
    raw = {name: each.model_copy(update={"knots": ()}) for name, each in calibrations.items()}
    counts = {each: Counts(classes) for each in raw.values()}  # calibrations of one score share theirs
    for pixels in scored_images(predictor, source, split, protocol, on_progress):
        prediction = pixels.prediction
        for each in tuple(counts):
            score = pixels.score(each)
            if score is None:
                del counts[each]  # of the branches of an ensemble, which only PyTorch has
                continue
            counts[each].update(pixels.label, prediction, score)
    pooled = {each: count.pooled() for each, count in counts.items()}
    first = pooled[raw[UNCALIBRATED]]
    found = {name: pooled[each] for name, each in raw.items() if each in pooled}
    costs = {} if fitted is None else output_costs(predictor, fitted, source, split)
    return {
        "images": first.images,
        "pixels": int(first.total.sum()),
        "scores": {
            name: metrics_with_intervals(found[name], values_of(calibration), predictor.classes.names)
            for name, calibration in calibrations.items()
            if name in found
        },
        "costs": costs,
        "advice": advice(found, costs),
    }


def advice(found: Mapping[str, Pooled], costs: Mapping[str, float]) -> dict[str, Any] | None:
    """Return whether the model's own score is better than the best one from the logits, which costs less.

    Args:
        found: counts by score.
        costs: time of the output by score, relative to the plain mask.

    Returns:
        `score`, the one to use; `own`, that of ELN's localizer or of the agreement of two branches; `rival`,
        the cheaper one; `difference`, the AURC of `own` minus the rival's, with its interval over images;
        `costs` of both. None for a model without a score of its own.
    """
    cheaper = [name for name in FROM_LOGITS if name in found]
    own = next((name for name in OWN if name in found), None)
    if own is None or not cheaper:
        return None
    best = min(cheaper, key=lambda name: found[name].aurc())
    costly, rival = found[own], found[best]
    resampled = [costly.aurc(each) - rival.aurc(each) for each in resampled_images(costly.images)]
    difference = _with_interval(costly.aurc() - rival.aurc(), resampled)
    is_better = difference["high"] is not None and difference["high"] < 0
    return {
        "score": own if is_better else best,
        "own": own,
        "rival": best,
        "difference": difference,
        "costs": {name: costs.get(name) for name in (own, best)},
    }


def without_curves(measured: dict[str, Any]) -> dict[str, Any]:
    """Return a measurement with the numbers of each score alone: what a bundle keeps."""
    numbers = {
        score: {key: each for key, each in found.items() if key not in CURVES}
        for score, found in measured["scores"].items()
    }
    return {**measured, "scores": numbers}


def values_of(calibration: Calibration) -> Floats:
    """Return the reliability of each bin of a score, (BINS,) float."""
    if not calibration.knots:
        return CENTERS
    x, y = np.array(calibration.knots).T
    values: Floats = np.interp(CENTERS, x, y)
    return values


class Counts:
    """Counts of (label, prediction, bin of a score) of each image, without those that do not occur.

    Args:
        num_classes: number of classes K.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._codes: list[NDArray[np.int64]] = []
        self._counts: list[NDArray[np.int64]] = []

    def update(
        self, label: NDArray[np.int64], prediction: NDArray[np.int64], score: NDArray[np.float32]
    ) -> None:
        """Count the labeled pixels of an image.

        Args:
            label: (P,) 0..K-1.
            prediction: (P,) 0..K-1.
            score: (P,) float in 0..1.
        """
        code = (label * self.num_classes + prediction) * BINS + bin_of(score)
        codes, counts = np.unique(code, return_counts=True)
        self._codes.append(codes)
        self._counts.append(counts)

    def pooled(self) -> Pooled:
        """Return the counts of all images."""
        codes, place = np.unique(np.concatenate(self._codes), return_inverse=True)
        pair, bins = np.divmod(codes, BINS)
        label, prediction = np.divmod(pair, self.num_classes)
        image = np.repeat(np.arange(len(self._codes)), [len(each) for each in self._codes])
        counts = np.concatenate(self._counts)
        return Pooled(self.num_classes, len(self._codes), label, prediction, bins, place, image, counts)


class Pooled(NamedTuple):
    """Counts of all images: U different (label, prediction, bin), and E entries of one image each."""

    num_classes: int
    images: int
    label: NDArray[np.int64]
    """(U,) 0..K-1."""
    prediction: NDArray[np.int64]
    """(U,) 0..K-1."""
    bin: NDArray[np.int64]
    """(U,) 0..BINS-1."""
    place: NDArray[np.int64]
    """(E,) index of the entry's triple, 0..U-1."""
    image: NDArray[np.int64]
    """(E,) index of the entry's image."""
    pixels: NDArray[np.int64]
    """(E,) number of pixels."""

    @property
    def total(self) -> Floats:
        """Return the number of pixels of each triple, (U,) float."""
        return self.weighted(np.ones(self.images, np.int64))

    def weighted(self, weight: NDArray[np.int64]) -> Floats:
        """Return the number of pixels of each triple if each image counts `weight` times, (U,) float."""
        return np.bincount(self.place, self.pixels * weight[self.image], len(self.label)).astype(float)

    def by_class(self, total: Floats) -> Floats:
        """Return (K, BINS, 2) numbers of wrong and right pixels by predicted class and bin.

        Args:
            total: (U,) number of pixels of each triple.
        """
        code = 2 * (self.prediction * BINS + self.bin) + (self.label == self.prediction)
        return np.bincount(code, total, 2 * BINS * self.num_classes).astype(float).reshape(-1, BINS, 2)

    def aurc(self, weight: NDArray[np.int64] | None = None) -> float:
        """Return the AURC, of the images as they are or if each counts `weight` times."""
        total = self.total if weight is None else self.weighted(weight)
        return aurc(self.by_class(total).sum(axis=0))

    def miou(self, total: Floats, kept: Floats | float = 1.0) -> float:
        """Return the mIoU of the kept pixels, over the classes that all pixels show.

        A class of which no pixel is kept has an IoU of 0.

        Args:
            total: (U,) number of pixels of each triple.
            kept: (U,) share of them that is kept, 0 to 1.
        """
        k = self.num_classes
        shown = torch.from_numpy(np.bincount(self.label, total, k) > 0)
        matrix = ConfusionMatrix(k)
        pairs = np.bincount(self.label * k + self.prediction, total * kept, k * k)
        matrix.counts = torch.from_numpy(pairs.reshape(k, k))
        return float(matrix.iou()[shown].nan_to_num(0).mean())


def metrics_with_intervals(pooled: Pooled, value: Floats, names: Sequence[str]) -> dict[str, Any]:
    """Return all metrics of a score, each number with its 95 % interval, ready for JSON.

    Args:
        pooled: counts of the score.
        value: (BINS,) reliability of each bin.
        names: names of the classes.
    """
    resampled = [
        metrics(pooled, pooled.weighted(weight), value) for weight in resampled_images(pooled.images)
    ]
    total = pooled.total
    found: dict[str, Any] = {
        name: _with_interval(number, [each[name] for each in resampled])
        for name, number in metrics(pooled, total, value).items()
    }
    by_class = pooled.by_class(total)
    hist = by_class.sum(axis=0)
    return found | {
        "ece_by_class": {
            name: calibration_error(each, value) if each.any() else None
            for name, each in zip(names, by_class, strict=True)
        },
        "diagram": diagram(hist, value),
        "risk_coverage": [[coverage, risk_at(hist, coverage)] for coverage in CURVE],
    }


def resampled_images(images: int) -> Iterator[NDArray[np.int64]]:
    """Yield how often each image counts, (images,) int, in each resample: the same for all scores."""
    generator = np.random.default_rng(0)
    share = np.full(images, 1 / images)
    for _ in range(RESAMPLES):
        yield generator.multinomial(images, share)


def _with_interval(number: float, resampled: list[float]) -> dict[str, float | None]:
    known = [each for each in resampled if np.isfinite(each)]
    if not np.isfinite(number) or not known:
        return {"value": None, "low": None, "high": None}
    low, high = np.percentile(known, PERCENTILES)
    return {"value": float(number), "low": float(low), "high": float(high)}


def metrics(pooled: Pooled, total: Floats, value: Floats) -> dict[str, float]:
    """Return the metrics of a score; NaN where there are none, e.g. AUROC without a wrong pixel.

    Args:
        pooled: counts of the score.
        total: (U,) number of pixels of each triple.
        value: (BINS,) reliability of each bin.
    """
    by_class = pooled.by_class(total)
    hist = by_class.sum(axis=0)
    kept = {coverage: pooled.miou(total, kept_share(hist, coverage)[pooled.bin]) for coverage in COVERAGES}
    return {
        "ece": calibration_error(hist, value),
        "class_ece": float(np.mean([calibration_error(each, value) for each in by_class if each.any()])),
        "brier": brier(hist, value),
        "auroc": auroc(hist),
        "aurc": aurc(hist),
        **{f"miou_at_{round(100 * coverage)}": miou for coverage, miou in kept.items()},
        **{f"gain_at_{round(100 * c)}": miou - kept[1.0] for c, miou in kept.items() if c < 1},
    }


def _grouped(hist: Floats, value: Floats) -> tuple[Floats, Floats, Floats]:
    """Return pixels, sum of reliability and right pixels of each bin of the diagram, each (DIAGRAM,)."""
    group = (value * DIAGRAM).astype(np.int64).clip(max=DIAGRAM - 1)
    pixels = hist.sum(axis=1)
    columns = (pixels, pixels * value, hist[:, 1])
    first, second, third = (np.bincount(group, column, DIAGRAM).astype(float) for column in columns)
    return first, second, third


def calibration_error(hist: Floats, value: Floats) -> float:
    """Return the expected calibration error.

    Args:
        hist: (BINS, 2) numbers of wrong and right pixels.
        value: (BINS,) reliability of each bin.
    """
    pixels, expected, right = _grouped(hist, value)
    return float(np.abs(expected - right).sum() / pixels.sum())


def diagram(hist: Floats, value: Floats) -> list[dict[str, float]]:
    """Return mean reliability, share of right pixels and share of all pixels of each bin that has pixels."""
    pixels, expected, right = _grouped(hist, value)
    return [
        {"reliability": e / p, "right": r / p, "share": p / pixels.sum()}
        for p, e, r in zip(pixels.tolist(), expected.tolist(), right.tolist(), strict=True)
        if p
    ]


def brier(hist: Floats, value: Floats) -> float:
    """Return the mean of (reliability - right)^2."""
    return float((hist[:, 0] * value**2 + hist[:, 1] * (1 - value) ** 2).sum() / hist.sum())


def auroc(hist: Floats) -> float:
    """Return the probability that a right pixel has a higher score than a wrong one; NaN without both."""
    wrong, right = hist.T
    if not wrong.any() or not right.any():
        return float("nan")
    below = np.cumsum(wrong) - wrong
    return float((right * (below + wrong / 2)).sum() / (wrong.sum() * right.sum()))


def aurc(hist: Floats) -> float:
    """Return the mean risk over all coverages.

    Within a bin of n pixels of which e are wrong, after N pixels of which E are wrong, the risk at n x more
    pixels is (E + e x) / (N + n x). Its integral over these n pixels is e + (E - N e / n) log((N + n) / N).
    """
    filled = hist[::-1][hist[::-1].any(axis=1)]
    n, e = filled.sum(axis=1), filled[:, 0]
    before, errors = np.cumsum(n) - n, np.cumsum(e) - e
    growth = np.log1p(np.divide(n, before, out=np.zeros_like(n), where=before > 0))
    return float((e + (errors - before * e / n) * growth).sum() / n.sum())


def kept_share(hist: Floats, coverage: float) -> Floats:
    """Return the share of the pixels of each bin, (BINS,), that are kept at a coverage."""
    pixels = hist.sum(axis=1)
    above = pixels[::-1].cumsum()[::-1] - pixels
    room = coverage * pixels.sum() - above
    kept: Floats = np.divide(room, pixels, out=np.zeros_like(pixels), where=pixels > 0).clip(0, 1)
    return kept


def risk_at(hist: Floats, coverage: float) -> float:
    """Return the share of wrong pixels among those that are kept at a coverage."""
    kept = kept_share(hist, coverage) @ hist
    return float(kept[0] / kept.sum())
