"""Calibration of scores on held-out labeled pixels: a temperature for softmax, else isotonic regression.

The temperature T minimizes the negative log-likelihood of softmax(logits / T) (Guo et al., ICML 2017).
Isotonic regression is the non-decreasing function of a score with the least squared error from being right
(Zadrozny & Elkan, KDD 2002), by pool-adjacent-violators on a histogram of the score.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.bundle.reliability import Calibration, FittedOn, Reliability
from zoo.classes import IGNORE
from zoo.data.source import Source
from zoo.errors import BundleError, DatasetError, ZooError
from zoo.evaluation.evaluate import labeled_images
from zoo.models.decoders.decoder import resize_logits
from zoo.models.deployable import FusedEnsemble
from zoo.predictors.eager import EagerPredictor
from zoo.predictors.outputs import LOGITS
from zoo.predictors.scores import agreement, certainty, max_softmax
from zoo.preprocess import normalize, resize_image, resize_mask

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from zoo.bundle.reliability import Score
    from zoo.data.source import Split
    from zoo.evaluation.evaluate import Progress
    from zoo.predictors.base import Predictor

BINS = 3840
"""Bins of the histograms of a score: 256 for each of 15 bins of the calibration error."""
LOGIT_PIXELS = 200_000
"""Number of pixels, spread evenly over the images, that the temperature is fitted on."""
TEMPERATURES = 0.02, 50.0
"""Range of temperatures."""
HALVINGS = 40
SOME_SEEN = "leave these out with --held-out"
ALL_SEEN = "choose others with --data or --split, or calibrate on every second one with zoo calibrate --half"


class Scored(NamedTuple):
    """An image as the model predicts it, at the label's size as in production."""

    id: str
    digest: str
    label: NDArray[np.uint8]
    """(H, W) class ids 0..K-1 or `IGNORE`."""
    mask: NDArray[np.uint8]
    """(H, W) predicted classes."""
    logits: Tensor
    """(K, h, w) float at the network's size."""
    agreement: Tensor | None
    """(h, w) float; None if the model is not an ensemble of two networks."""

    def at_label(self, values: Tensor) -> NDArray[np.float32]:
        """Return (h, w) values at the label's size, resized as masks are."""
        found: NDArray[np.float32] = resize_mask(values.float().cpu().numpy(), self.label.shape)  # type: ignore[type-var]
        return found

    def raw(self, calibration: Calibration) -> Tensor | None:
        """Return the (h, w) score of a calibration before its knots; None if the model does not have it."""
        if calibration.score == "agreement":
            return self.agreement
        if calibration.score == "entropy":
            return certainty(self.logits[None])[0]
        return max_softmax(self.logits[None], calibration.temperature)[0]


def scored_images(
    predictor: Predictor, source: Source, split: Split, on_progress: Progress | None = None
) -> Iterator[Scored]:
    """Yield the predictions of the labeled images of a split.

    Raises:
        DatasetError: a split without labeled images, or classes that differ from the predictor's.
        ZooError: a predictor without logits.
    """
    if LOGITS not in predictor.available:
        raise ZooError(
            f"reliability needs logits, but this {predictor.backend} model returns only masks: use the bundle"
        )
    ids = source.ids(split)
    for id_, (image, label) in zip(ids, labeled_images(predictor, source, split, on_progress), strict=True):
        size = predictor.preprocessing.model_size(*image.shape[:2])
        predictor.limits.check(size, image.shape[:2])
        batch = resize_image(image, size)[None]
        logits = torch.from_numpy(predictor.infer(batch, (LOGITS,))[LOGITS])
        mask = logits.argmax(dim=1)
        yield Scored(
            id_,
            image_digest(image),
            label,
            resize_mask(mask[0].numpy().astype(np.uint8), (label.shape[0], label.shape[1])),
            logits[0],
            _agreement(predictor, batch, mask),
        )


def image_digest(image: NDArray[np.uint8]) -> str:
    """Return the shortened SHA-256 of the pixels of an image."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:16]


@torch.inference_mode()
def _agreement(predictor: Predictor, batch: NDArray[np.uint8], mask: Tensor) -> Tensor | None:
    """Return the (h, w) agreement of the branches of an ensemble; None for other models."""
    if not isinstance(predictor, EagerPredictor):
        return None
    deployable = predictor.model.deployable
    if not isinstance(deployable, FusedEnsemble):
        return None
    images = normalize(predictor.upload(batch).permute(0, 3, 1, 2), predictor.preprocessing)
    branches = [resize_logits(each, batch.shape[1:3]) for each in deployable.branch_logits(images)]
    return agreement(branches, mask.to(images.device))[0].cpu()


class Subset(Source):
    """Some images of a split of another source.

    Args:
        source: source of the images.
        split: split that is reduced; others are unchanged.
        kept: ids of the images in that split.
    """

    def __init__(self, source: Source, split: Split, kept: Sequence[str]) -> None:
        super().__init__(source.spec, source.classes)
        self.source, self.split, self.kept = source, split, tuple(kept)

    def ids(self, split: Split) -> tuple[str, ...]:
        return self.kept if split == self.split else self.source.ids(split)

    def read_image(self, id_: str) -> NDArray[np.uint8]:
        return self.source.read_image(id_)

    def read_mask(self, id_: str) -> NDArray[np.uint8]:
        return self.source.read_mask(id_)


def half_of(source: Source, split: Split) -> Subset:
    """Return every second image of a split."""
    return Subset(source, split, source.ids(split)[::2])


def held_out(source: Source, split: Split, fitted: FittedOn, *, leave_out: bool) -> Source:
    """Return the images of a split after checking that the calibration was not fitted on them.

    Args:
        source: source of the images, which are compared by their pixels.
        split: split to score.
        fitted: images that the calibration was fitted on.
        leave_out: whether to leave out the images that it was fitted on, rather than to raise.

    Raises:
        ZooError: the calibration was fitted on some of the images, or on all with `leave_out`.
    """
    ids, used = source.ids(split), set(fitted.images.values())
    kept = [id_ for id_ in ids if image_digest(source.read_image(id_)) not in used]
    if len(kept) == len(ids):
        return source
    if leave_out and kept:
        return Subset(source, split, kept)
    raise ZooError(
        f"the calibration was fitted on {len(ids) - len(kept)} of the {len(ids)} images of split {split} of "
        f"{source.spec}, expected images that it has not seen: {SOME_SEEN if kept else ALL_SEEN}"
    )


def calibrate(
    predictor: Predictor,
    source: Source,
    split: Split = "val",
    score: Score = "temperature",
    on_progress: Progress | None = None,
) -> Reliability:
    """Return the calibrations of all scores of a model, fitted on the labeled images of a split.

    Args:
        predictor: eager predictor of a bundle.
        source: source with the same classes, of images that the model was not trained on.
        split: split of the source.
        score: score of the output `reliability`.
        on_progress: called after every image.

    Raises:
        DatasetError: no labeled pixels, or classes that differ from the predictor's.
        BundleError: a score that the output cannot be computed from.
    """
    if score == "agreement":
        raise BundleError(
            "got score agreement, which needs both branches and is only evaluated, expected temperature, "
            "softmax or entropy for the output reliability"
        )
    sample = max(1, LOGIT_PIXELS // max(1, len(source.ids(split))))
    generator = np.random.default_rng(0)
    counts: dict[Score, NDArray[np.int64]] = {}
    images: dict[str, str] = {}
    logits, labels = [], []
    for each in scored_images(predictor, source, split, on_progress):
        images[each.id] = each.digest
        for name in ("softmax", "entropy", "agreement"):
            raw = each.raw(Calibration(score=name))
            if raw is not None:
                found = count_right(each.at_label(raw), each.mask, each.label)
                counts[name] = counts.get(name, 0) + found
        z, y = _sampled(each, sample, generator)
        logits.append(z)
        labels.append(y)
    pixels = int(counts["softmax"].sum())
    if not pixels:
        raise DatasetError(f"{source.spec} has no labeled pixels in split {split}: calibrate on other images")
    temperature = fit_temperature(torch.cat(logits), torch.cat(labels))
    calibrations: dict[Score, Calibration] = {
        "temperature": Calibration(score="temperature", temperature=temperature)
    }
    for name, found in counts.items():
        calibrations[name] = Calibration(score=name, knots=fit_isotonic(found))
    fitted = FittedOn(data=source.spec, split=split, images=images, pixels=pixels)
    return Reliability(score=score, calibrations=calibrations, fitted=fitted)


def _sampled(scored: Scored, count: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return logits (P, K) and labels (P,) of at most `count` random labeled pixels of an image."""
    rows, columns = np.nonzero(scored.label != IGNORE)
    kept = generator.permutation(len(rows))[:count]
    rows, columns = rows[kept], columns[kept]
    scale = np.array(scored.logits.shape[1:]) / scored.label.shape
    at = ((rows + 0.5) * scale[0]).astype(int), ((columns + 0.5) * scale[1]).astype(int)
    labels = scored.label[rows, columns].astype(np.int64)
    return scored.logits[:, at[0], at[1]].T, torch.from_numpy(labels)


def count_right(
    score: NDArray[np.float32], mask: NDArray[np.uint8], label: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Return (BINS, 2) counts of wrong and right pixels by bin of their score, without ignored pixels.

    Args:
        score: float in 0..1, of any shape.
        mask: predicted classes, of the same shape.
        label: labels, of the same shape.
    """
    known = label != IGNORE
    code = 2 * bin_of(score[known]) + (mask == label)[known]
    return np.bincount(code, minlength=2 * BINS).reshape(BINS, 2)


def bin_of(score: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the bin of each score in 0..1."""
    bins: NDArray[np.int64] = np.minimum((score * BINS).astype(np.int64), BINS - 1)
    return bins


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature in `TEMPERATURES` that minimizes the negative log-likelihood.

    With b = 1 / T, NLL(b) = mean(logsumexp(b z) - b z_y) is convex: its derivative, mean(E[z] - z_y) under
    softmax(b z), is increasing, and its root is found by bisection.

    Args:
        logits: (P, K) float.
        labels: (P,) int64.
    """
    z = logits.float()
    right = z.gather(1, labels[:, None]).double().mean()
    low, high = (1 / each for each in reversed(TEMPERATURES))
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        expected = ((middle * z).softmax(dim=1) * z).sum(dim=1).double().mean()
        if expected > right:
            high = middle
        else:
            low = middle
    return float(1 / (low * high) ** 0.5)


def fit_isotonic(counts: NDArray[np.int64]) -> tuple[tuple[float, float], ...]:
    """Return the knots of isotonic regression: (score, share of right pixels), both non-decreasing.

    A block of pooled bins keeps its first and last bin, so that it stays flat.

    Args:
        counts: (B, 2) counts of wrong and right pixels by bin of the score, which spans 0..1.
    """
    filled = np.flatnonzero(counts.sum(axis=1))
    centers = (filled + 0.5) / len(counts)
    values, sizes = pool_adjacent_violators(
        counts[filled, 1] / counts[filled].sum(axis=1), counts[filled].sum(axis=1)
    )
    knots: list[tuple[float, float]] = []
    start = 0
    for value, size in zip(values, sizes, strict=True):
        ends = dict.fromkeys((float(centers[start]), float(centers[start + size - 1])))
        knots += [(end, float(value)) for end in ends]
        start += size
    return tuple(knots)


def pool_adjacent_violators(
    means: NDArray[np.float64], weights: NDArray[np.int64]
) -> tuple[list[float], list[int]]:
    """Return value and length of the blocks of weighted isotonic regression.

    Args:
        means: (N,) values, in the order of their scores.
        weights: (N,) positive weights.
    """
    blocks: list[tuple[float, float, int]] = []  # sum of values, weight, length
    for mean, weight in zip(means.tolist(), weights.tolist(), strict=True):
        total, mass, length = mean * weight, float(weight), 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / mass:
            before = blocks.pop()
            total, mass, length = total + before[0], mass + before[1], length + before[2]
        blocks.append((total, mass, length))
    return [total / mass for total, mass, _ in blocks], [length for *_, length in blocks]
