"""Tags, the classes present in an image: taken from its mask, or from a list of images without masks.

A list has a line for each image, with its id followed by its classes, by name or number:

    2007_000032 background aeroplane person

A line lists all classes of the image, including the background. Use the number for a name with spaces.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from zoo.data.lists import IdFinder, read_list
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.classes import Classes
    from zoo.data.lists import Line
    from zoo.data.partition import Partition
    from zoo.data.source import Source

BACKGROUND = "background"


def tags_of_mask(mask: NDArray[np.uint8], num_classes: int) -> NDArray[np.bool_]:
    """Return whether each class is present in a mask, (K,) bool; `IGNORE` is not a class.

    Args:
        mask: (H, W) uint8, 0..K-1 or `IGNORE`.
        num_classes: number of classes K.
    """
    return np.bincount(mask.ravel(), minlength=256)[:num_classes] > 0


def with_tags(partition: Partition, path: Path, source: Source) -> Partition:
    """Return the partition with the tags that a file lists for some of its unlabeled images.

    Raises:
        DatasetError: a missing file, a line without a known unlabeled image or class, or a duplicate image.
    """
    if not path.is_file():
        raise DatasetError(
            f"data.tags {path}: got no such file, expected a text file of lines `id class class ...`: "
            f"check the spelling"
        )
    if not partition.unlabeled:
        raise DatasetError(
            f"data.tags {path}: got tags, but all {len(partition.labeled)} images have masks, expected "
            f"unlabeled ones: leave data.tags out, or give --partition 1/8"
        )
    find = IdFinder(partition.unlabeled, partition.labeled + source.ids("val"), "unlabeled image")
    tags = {line.id_: _labels(line, source.classes) for line in read_list(path, find)}
    if source.classes.names[0] == BACKGROUND and not any(0 in labels for labels in tags.values()):
        raise DatasetError(
            f"data.tags {path}: got {len(tags)} images without {BACKGROUND}, expected it named like any "
            f"other class: add it to the lines of the images that show it"
        )
    return dataclasses.replace(partition, tags=tags)


def _labels(line: Line, classes: Classes) -> tuple[int, ...]:
    """Return the labels of the classes in a line, sorted."""
    label_of = {str(label): label for label in range(len(classes))}
    label_of |= {name: label for label, name in enumerate(classes.names)}
    unknown = [word for word in line.words if word not in label_of]
    if unknown or not line.words:
        got = f"got the class {unknown[0]!r}" if unknown else f"got no class of {line.id_}"
        raise DatasetError(
            f"{line.where}: {got}, expected some of {', '.join(classes.names)} or 0..{len(classes) - 1}: "
            f"correct or remove the line"
        )
    return tuple(sorted({label_of[word] for word in line.words}))
