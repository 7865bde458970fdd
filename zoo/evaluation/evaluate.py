"""Evaluation of predictors on the labeled images of a source: mIoU under a protocol, or F1 of tags."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from zoo.classes import IGNORE
from zoo.data.tags import tags_of_mask
from zoo.errors import DatasetError
from zoo.evaluation.boundary import BoundaryIou
from zoo.evaluation.metrics import ConfusionMatrix
from zoo.evaluation.protocols import protocol_of
from zoo.evaluation.tag_metrics import tag_metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo.classes import Classes
    from zoo.data.source import Source, Split
    from zoo.predictors.base import Predictor
    from zoo.predictors.tags import TagPredictor

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""


class Scores(NamedTuple):
    """Counts on a split under one protocol."""

    confusion: ConfusionMatrix
    boundary: BoundaryIou | None
    """None if it was not requested."""
    how: dict[str, Any]
    """Number of images, data, protocol and backend."""

    def as_dict(self, classes: Classes) -> dict[str, Any]:
        """Return all metrics and the conditions of the measurement, ready for JSON."""
        near = {} if self.boundary is None else self.boundary.as_dict(classes)
        return self.confusion.as_dict(classes) | near | self.how


def evaluate(
    predictor: Predictor,
    source: Source,
    split: Split = "val",
    protocol: str = "whole",
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the metrics of a predictor on a split, ready for JSON.

    Args:
        predictor: predictor of any backend; some protocols need logits.
        source: source with the same classes as the predictor.
        split: `train` or `val`.
        protocol: name of a protocol in `zoo.evaluation.protocols`, or of a `Tiling`.
        on_progress: called after every image.

    Returns:
        `miou`, `pixel_accuracy`, `iou` by class name (None: absent), `images`, and the conditions `data`,
        `split`, `protocol`, `backend`, `runtime`.

    Raises:
        DatasetError: a split without labeled images, or classes or images that the predictor does not have.
        ZooError: a protocol that needs logits, with an artifact that has only masks.
    """
    return score(predictor, source, split, protocol, on_progress).as_dict(predictor.classes)


def score(
    predictor: Predictor,
    source: Source,
    split: Split = "val",
    protocol: str = "whole",
    on_progress: Progress | None = None,
    *,
    with_boundary: bool = False,
) -> Scores:
    """Return the counts on a split, from which `evaluate` computes the metrics.

    Args:
        predictor: predictor of any backend; some protocols need logits.
        source: source with the same classes as the predictor.
        split: `train` or `val`.
        protocol: name of a protocol in `zoo.evaluation.protocols`, or of a `Tiling`.
        on_progress: called after every image.
        with_boundary: whether to count the boundary IoU as well.

    Raises:
        DatasetError: a split without labeled images, or classes or images that the predictor does not have.
        ZooError: a protocol that needs logits, with an artifact that has only masks.
    """
    confusion = ConfusionMatrix(len(predictor.classes))
    boundary = BoundaryIou(len(predictor.classes)) if with_boundary else None
    scoring = protocol_of(protocol)
    for image, label in labeled_images(predictor, source, split, on_progress):
        scored = scoring.score(predictor, image, label)
        confusion.update(*(torch.from_numpy(np.array(each)) for each in scored))
        if boundary is not None:
            boundary.update(scored.label, scored.prediction)
    return Scores(confusion, boundary, _how(predictor, source, split, protocol))


def evaluate_tags(
    predictor: TagPredictor, source: Source, split: Split = "val", on_progress: Progress | None = None
) -> dict[str, Any]:
    """Return the metrics of a classifier, compared with the classes in the masks of a split, ready for JSON.

    Args:
        predictor: predictor of a classifier.
        source: source with the same classes as the predictor.
        split: `train` or `val`.
        on_progress: called after every image.

    Returns:
        The metrics of `zoo.evaluation.tag_metrics`, and the conditions, as from `evaluate`.

    Raises:
        DatasetError: a split without labeled images, or classes or images that the predictor does not have.
    """
    pairs = [
        (predictor.predict(image), tags_of_mask(label, len(predictor.classes)))
        for image, label in labeled_images(predictor, source, split, on_progress)
    ]
    prob, tags = (np.stack(column) for column in zip(*pairs, strict=True))
    return tag_metrics(prob, tags, predictor.classes) | _how(predictor, source, split, "whole")


def labeled_images(
    predictor: Predictor | TagPredictor, source: Source, split: Split, on_progress: Progress | None
) -> Iterator[tuple[NDArray[Any], NDArray[np.uint8]]]:
    """Yield image and mask of each id of a split, and report progress."""
    ids = source.ids(split)
    if not ids or split == "unlabeled":
        raise DatasetError(f"{source.spec} has no masks in split {split}: use --split train or --split val")
    _check_classes(predictor, source)
    source.check_format(predictor.preprocessing.format)
    for done, id_ in enumerate(ids, start=1):
        yield _read_pair(source, id_)
        if on_progress is not None:
            on_progress(done, len(ids))


def _how(predictor: Predictor | TagPredictor, source: Source, split: Split, protocol: str) -> dict[str, Any]:
    """Return the conditions of the measurement."""
    return {
        "images": len(source.ids(split)),
        "data": source.spec,
        "split": split,
        "protocol": protocol,
        "backend": predictor.backend,
        "runtime": predictor.description,
    }


def _check_classes(predictor: Predictor | TagPredictor, source: Source) -> None:
    got, expected = source.classes.names, predictor.classes.names
    if got != expected:
        raise DatasetError(
            f"{source.spec} has the {len(got)} classes {', '.join(got)}, expected the model's "
            f"{len(expected)} ({', '.join(expected)}): name them in its data.toml, in the order of its labels"
        )


def _read_pair(source: Source, id_: str) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Return image and mask of an id, after checking that sizes match and labels are valid."""
    image, label = source.read_image(id_), np.array(source.read_mask(id_))
    if image.shape[:2] != label.shape:
        raise DatasetError(
            f"{id_} in {source.spec} has an image of {image.shape[1]}x{image.shape[0]} pixels and a mask of "
            f"{label.shape[1]}x{label.shape[0]}, expected one size: correct one of them"
        )
    highest = int(label.max(initial=0, where=label != IGNORE))
    if highest >= len(source.classes):
        raise DatasetError(
            f"the mask of {id_} in {source.spec} has label {highest}, expected 0..{len(source.classes) - 1} "
            f"or {IGNORE}: correct the mask or the class list"
        )
    return image, label
