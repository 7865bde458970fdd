"""How good a predictor is on the labelled images of a source: mIoU under a stated protocol, or F1 of tags.

    whole   one prediction for an image, brought to the network's size as in production (`zoo.preprocess`)
    slide   windows of the training crop over the image at its own size, logits summed where windows overlap

Both are scored at the mask's original size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from zoo.classes import IGNORE
from zoo.data.tags import tags_of_mask
from zoo.errors import DatasetError, ZooError
from zoo.metrics import ConfusionMatrix
from zoo.tag_metrics import tag_metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo.data.source import Source, Split
    from zoo.predictors.base import Predictor
    from zoo.predictors.tags import TagPredictor
    from zoo.preprocess import Preprocessing

Protocol = Literal["whole", "slide"]
Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""


def evaluate(
    predictor: Predictor,
    source: Source,
    split: Split = "val",
    protocol: Protocol = "whole",
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the metrics of a predictor on a split, ready for JSON.

    Args:
        predictor: any backend; `slide` needs one that gives logits.
        source: whose classes must be the predictor's.
        split: `train` or `val`.
        protocol: see the module.
        on_progress: called after every image.

    Returns:
        `miou`, `pixel_accuracy`, `iou` by class name (None: absent), `images`, and what was measured how:
        `data`, `split`, `protocol`, `backend`, `runtime`.

    Raises:
        DatasetError: no labelled images in the split, or classes that are not the predictor's.
        ZooError: `slide` with an artifact that gives masks only.
    """
    predict = predictor.predict if protocol == "whole" else partial(predict_slide, predictor)
    confusion = ConfusionMatrix(len(predictor.classes))
    for image, label in _labeled_images(predictor, source, split, on_progress):
        confusion.update(torch.from_numpy(label), torch.from_numpy(np.array(predict(image))))
    return confusion.as_dict(predictor.classes) | _how(predictor, source, split, protocol)


def evaluate_tags(
    predictor: TagPredictor, source: Source, split: Split = "val", on_progress: Progress | None = None
) -> dict[str, Any]:
    """Return the metrics of a classifier on the classes that the masks of a split show, ready for JSON.

    Args:
        predictor: of a classifier.
        source: whose classes must be the predictor's.
        split: `train` or `val`.
        on_progress: called after every image.

    Returns:
        those of `zoo.tag_metrics`, and what was measured how, as `evaluate`.

    Raises:
        DatasetError: no labelled images in the split, or classes that are not the predictor's.
    """
    pairs = [
        (predictor.predict(image), tags_of_mask(label, len(predictor.classes)))
        for image, label in _labeled_images(predictor, source, split, on_progress)
    ]
    prob, tags = (np.stack(column) for column in zip(*pairs, strict=True))
    return tag_metrics(prob, tags, predictor.classes) | _how(predictor, source, split, "whole")


def predict_slide(predictor: Predictor, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the (H, W) uint8 mask of an image from overlapping windows at its own size.

    Args:
        predictor: must give logits.
        image: (H, W, 3) uint8 RGB.
    """
    mask: NDArray[np.uint8] = slide_logits(predictor, image).argmax(axis=0).astype(np.uint8)
    return mask


def slide_logits(predictor: Predictor, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the (K, H, W) float32 logits of an image, summed over windows of the training crop.

    Windows stand two thirds of the crop apart; the last one of a row or column is moved back inside the
    image. An image smaller than the crop is padded with the mean colour on the right and below.

    Args:
        predictor: must give logits.
        image: (H, W, 3) uint8 RGB.

    Raises:
        ZooError: the artifact gives masks only.
    """
    height, width = image.shape[:2]
    crop_height, crop_width = predictor.preprocessing.imgsz
    padded = _pad(image, predictor.preprocessing)
    total = np.zeros((len(predictor.classes), *padded.shape[:2]), np.float32)
    for top in window_starts(padded.shape[0], crop_height):
        for left in window_starts(padded.shape[1], crop_width):
            window = np.s_[top : top + crop_height, left : left + crop_width]
            logits = predictor.logits(padded[window][None])
            if logits is None:
                raise ZooError(
                    f"protocol slide sums logits over windows, but this {predictor.backend} artifact gives "
                    f"masks only: evaluate the bundle instead, or export again with --output logits"
                )
            total[:, *window] += logits[0]
    return total[:, :height, :width]


def window_starts(length: int, crop: int) -> list[int]:
    """Return where windows of `crop` start along an axis of `length` >= `crop`, two thirds of `crop` apart.

    Example:
        >>> window_starts(10, 6)
        [0, 4]
        >>> window_starts(11, 6)
        [0, 4, 5]
    """
    stride = math.ceil(crop * 2 / 3)
    count = math.ceil((length - crop) / stride) + 1
    return [min(index * stride, length - crop) for index in range(count)]


def _pad(image: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return the image with the mean colour on the right and below, at least as large as the crop."""
    size = np.maximum(image.shape[:2], preprocessing.imgsz)
    padded = np.empty((*size, 3), np.uint8)
    padded[:] = np.round(np.array(preprocessing.mean) * 255)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


def _labeled_images(
    predictor: Predictor | TagPredictor, source: Source, split: Split, on_progress: Progress | None
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield image and mask of each id of a split, and tell when the next is asked for."""
    ids = source.ids(split)
    if not ids or split == "unlabeled":
        raise DatasetError(f"{source.spec} has no masks in split {split}: use --split train or --split val")
    _check_classes(predictor, source)
    for done, id_ in enumerate(ids, start=1):
        yield _read_pair(source, id_)
        if on_progress is not None:
            on_progress(done, len(ids))


def _how(
    predictor: Predictor | TagPredictor, source: Source, split: Split, protocol: Protocol
) -> dict[str, Any]:
    """Return what was measured how."""
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


def _read_pair(source: Source, id_: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return image and mask of an id, of one size, the labels being classes or `IGNORE`."""
    image, label = source.read_image(id_), np.array(source.read_mask(id_))
    if image.shape[:2] != label.shape:
        raise DatasetError(
            f"{id_} in {source.spec} has an image of {image.shape[0]}x{image.shape[1]} pixels and a mask of "
            f"{label.shape[0]}x{label.shape[1]}, expected one size: correct one of them"
        )
    highest = int(label.max(initial=0, where=label != IGNORE))
    if highest >= len(source.classes):
        raise DatasetError(
            f"the mask of {id_} in {source.spec} has label {highest}, expected 0..{len(source.classes) - 1} "
            f"or {IGNORE}: correct the mask or the class list"
        )
    return image, label
