"""Reading every file of a source before training, so that a bad one does not end the run hours later."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from zoo.classes import IGNORE
from zoo.data.files import FileSource, check_labels
from zoo.data.shapes import ShapesSource
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from zoo.data.source import Source, Split

SPLITS: tuple[Split, ...] = ("train", "unlabeled", "val")


def check_source(source: Source, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Decode every image and mask and raise the first error in the order of the ids.

    Args:
        source: a source that is drawn rather than read is not decoded.
        on_progress: called with the number of ids read and their total.

    Raises:
        DatasetError: an empty train or val split, a file that cannot be read, a mask of another size than its
            image, a label that is no class, masks that show a single class.
    """
    _check_not_empty(source, "train")
    _check_not_empty(source, "val")
    if isinstance(source, ShapesSource):
        return
    jobs = [(split, id_) for split in SPLITS for id_ in source.ids(split)]
    seen = np.zeros(256, np.bool_)
    with ThreadPoolExecutor() as pool:
        # map, not as_completed: the first error in order, whatever the speed of the threads
        for done, labels in enumerate(pool.map(lambda job: _check_id(source, *job), jobs), start=1):
            seen |= labels
            if on_progress:
                on_progress(done, len(jobs))
    check_labels(seen, source.spec)


def _check_not_empty(source: Source, split: Split) -> None:
    if not source.ids(split):
        raise DatasetError(
            f"{source.spec}: got no images in split {split}, expected at least one image with a mask: "
            f"add some to {split}/images and {split}/masks"
        )


def _check_id(source: Source, split: Split, id_: str) -> NDArray[np.bool_]:
    """Return which of the 256 values the mask of an id holds: none, if it is unlabeled."""
    image = source.read_image(id_)
    if split == "unlabeled":
        return np.zeros(256, np.bool_)
    mask = source.read_mask(id_)
    if mask.shape != image.shape[:2]:
        raise DatasetError(
            f"{_mask_name(source, id_)}: got a mask of {mask.shape[1]}x{mask.shape[0]} pixels, expected "
            f"{image.shape[1]}x{image.shape[0]} as its image: export it again at the image's size"
        )
    seen = np.bincount(mask.ravel(), minlength=256) > 0
    count = len(source.classes)
    beyond = np.flatnonzero(seen[count:IGNORE])
    if beyond.size:
        raise DatasetError(
            f"{_mask_name(source, id_)}: got the value {count + beyond[0]}, expected 0..{count - 1} or "
            f"{IGNORE} (ignore): name every class in data.toml, or relabel the mask"
        )
    return seen


def _mask_name(source: Source, id_: str) -> str:
    if not isinstance(source, FileSource):
        return f"mask of {id_}"
    pair = source.files[id_]
    return str(pair.mask) if pair.drawing is None else pair.drawing.where
