"""Labeled pixels with their scores, under a protocol, and the images that a calibration has not seen."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.classes import IGNORE
from zoo.data.source import Source, Subset
from zoo.errors import ZooError
from zoo.evaluation.evaluate import labeled_images
from zoo.evaluation.protocols import PROTOCOLS, protocol_of
from zoo.predictors.base import Predictor
from zoo.predictors.eager import EagerPredictor
from zoo.predictors.outputs import LOGITS, MASK
from zoo.predictors.scores import own_score, raw_score

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from zoo.bundle.reliability import Calibration, FittedOn, Score
    from zoo.data.source import Split
    from zoo.evaluation.evaluate import Progress
    from zoo.predictors.limits import Limits

BINS = 1024
"""Bins of the histograms of a score, narrower towards 1, where most pixels are."""
CENTERS: NDArray[np.float64] = 1 - (1 - (np.arange(BINS) + 0.5) / BINS) ** 2
"""Score at the center of each bin."""


def bin_of(score: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the bin of each score in 0..1."""
    bins: NDArray[np.int64] = (BINS * (1 - np.sqrt(1 - score.clip(0, 1)))).astype(np.int64)
    return bins.clip(max=BINS - 1)


class Pixels(NamedTuple):
    """The labeled pixels of an image, with the logits that decide on each."""

    id: str
    digest: str
    """Of the image (`image_digest`)."""
    label: NDArray[np.int64]
    """(P,) class ids 0..K-1."""
    place: NDArray[np.int64]
    """(P,) index into the h x w pixels of the network's output."""
    logits: Tensor
    """(K, h, w) float."""
    own: Score | None = None
    """Score that the model computes from more than its logits; None if it has none."""
    judged: Tensor | None = None
    """(h, w) float, from which `own` is computed."""

    @property
    def prediction(self) -> NDArray[np.int64]:
        """Return the predicted classes, (P,)."""
        return self._at(self.logits.argmax(dim=0))

    def score(self, calibration: Calibration) -> NDArray[np.float32] | None:
        """Return the (P,) scores of a calibration before its knots; None if the model does not have it."""
        if calibration.is_from_logits:
            return self._at(raw_score(self.logits[None], calibration)[0])
        if self.judged is None or calibration.score != self.own:
            return None
        return self._at(own_score(self.judged, calibration))

    def _at(self, values: Tensor) -> NDArray[Any]:
        found: NDArray[Any] = values.cpu().numpy().ravel()[self.place]
        return found


class Indexed(Predictor):
    """A predictor whose mask is the index of each pixel: a protocol then resizes and crops these indices.

    Args:
        predictor: predictor with logits; the last ones, and its own score of them, are kept.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(predictor.classes, predictor.preprocessing)
        self.backend = predictor.backend
        self.predictor = predictor
        self.own = predictor.own_score if isinstance(predictor, EagerPredictor) else None
        self.last: Tensor
        self.judged: Tensor | None = None

    @property
    def limits(self) -> Limits:
        """Return the shapes that the predictor accepts."""
        return self.predictor.limits

    def infer(self, images: NDArray[Any], outputs: Sequence[str] = (MASK,)) -> dict[str, NDArray[Any]]:
        """Return the index of each pixel as the mask, (1, H, W) int32."""
        assert tuple(outputs) == (MASK,)
        assert len(images) == 1
        if self.own is None:
            self.last = torch.from_numpy(self.predictor.infer(images, (LOGITS,))[LOGITS])[0]
        else:
            assert isinstance(self.predictor, EagerPredictor)
            logits, judged = self.predictor.judged(self.predictor.upload(images))
            self.last, self.judged = logits[0].float().cpu(), judged[0].cpu()
        height, width = self.last.shape[1:]
        return {MASK: np.arange(height * width, dtype=np.int32).reshape(1, height, width)}


def scored_images(
    predictor: Predictor,
    source: Source,
    split: Split,
    protocol: str = "whole",
    on_progress: Progress | None = None,
) -> Iterator[Pixels]:
    """Yield the scored pixels of the labeled images of a split.

    Raises:
        DatasetError: a split without labeled images, or classes that differ from the predictor's.
        ZooError: a predictor without logits, or a protocol that resizes or averages logits.
    """
    check_protocol(protocol)
    check_logits(predictor)
    indexed = Indexed(predictor)
    ids = source.ids(split)
    for id_, (image, label) in zip(ids, labeled_images(predictor, source, split, on_progress), strict=True):
        scored = PROTOCOLS[protocol].score(indexed, image, label)
        known = scored.label != IGNORE
        yield Pixels(
            id_,
            image_digest(image),
            scored.label[known].astype(np.int64),
            scored.prediction[known].astype(np.int64),
            indexed.last,
            indexed.own,
            indexed.judged,
        )


def check_logits(predictor: Predictor) -> None:
    """Raise unless a predictor returns logits.

    Raises:
        ZooError: an artifact or a server without logits.
    """
    if LOGITS not in predictor.available:
        raise ZooError(
            f"reliability needs logits, but this {predictor.backend} model returns only "
            f"{' and '.join(predictor.available)}: use the bundle, or export again with --output logits"
        )


def check_protocol(name: str) -> None:
    """Raise unless a protocol scores the pixels of one forward pass, as a calibration describes them.

    Raises:
        ZooError: it resizes or averages logits.
    """
    if protocol_of(name).combines_logits:
        known = [each for each, protocol in PROTOCOLS.items() if not protocol.combines_logits]
        raise ZooError(
            f"got protocol {name}, which resizes or averages logits, expected for reliability one that "
            f"scores each pixel of one forward pass: {', '.join(known)}"
        )


def image_digest(image: NDArray[Any]) -> str:
    """Return the shortened SHA-256 of the pixels of an image."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:16]


def halves(source: Source, split: Split) -> tuple[Subset, Subset]:
    """Return the images of a split at even and at odd places."""
    ids = source.ids(split)
    return Subset(source, split, ids[::2]), Subset(source, split, ids[1::2])


def unseen(source: Source, split: Split, fitted: FittedOn) -> Source:
    """Return the images of a split that a calibration was not fitted on; they are compared by their pixels.

    Raises:
        ZooError: it was fitted on all of them.
    """
    ids, used = source.ids(split), set(fitted.images.values())
    kept = [id_ for id_ in ids if image_digest(source.read_image(id_)) not in used]
    if ids and not kept:
        raise ZooError(
            f"the calibration was fitted on all {len(ids)} images of split {split} of {source.spec}, "
            f"expected images that it has not seen: select others with --data or --split, or calibrate on "
            f"every second one with zoo calibrate --half"
        )
    return source if len(kept) == len(ids) else Subset(source, split, kept)
