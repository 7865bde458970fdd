"""Masks of one file for each label, `NAME_LABEL.png`, merged on reading; the later label is on top."""

from __future__ import annotations

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from zoo.data.files import IMAGE_SUFFIXES, MASK_SUFFIXES, Pair, unreadable
from zoo.data.formats.drawing import Drawn, ImageRegions
from zoo.data.formats.regions import BACKGROUND
from zoo.data.formats.tools import Found, images_of, size_of
from zoo.data.names import match_masks
from zoo.data.source import evenly_spaced
from zoo.data.walk import files_by_stem
from zoo.errors import DatasetError
from zoo.images import READ_ERRORS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.data.source import Split

SEPARATORS = "_-."
FEWEST_SHARED = 2
"""Number of images that must share a label."""
FEWEST, MOST = 2, 254
"""Numbers of labels; 255 is `IGNORE`."""
SAMPLED = 3
"""Number of files of each label that are looked into before the masks are taken for those of labels."""


class Layers(NamedTuple):
    """The mask files of an image."""

    where: str
    """Folder and image, for messages."""
    height: int
    width: int
    files: tuple[tuple[Path, int], ...]
    """Each file with its label, whose pixels are those above 0."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Return the files that the mask is merged from."""
        return tuple(path for path, _ in self.files)

    def draw(self) -> NDArray[np.uint8]:
        """Return the mask, (H, W) uint8, 0..K-1."""
        return self.draw_counted().mask

    def draw_counted(self) -> Drawn:
        """Return the mask, and the number of pixels that several labels cover.

        Raises:
            DatasetError: a file that cannot be read, has another size or more than two values.
        """
        mask, overlap = np.zeros((self.height, self.width), np.uint8), 0
        for path, label in self.files:
            try:
                inside = _inside(path)
            except READ_ERRORS as error:
                raise unreadable(path, "a mask", error) from error
            if inside is None:
                raise DatasetError(
                    f"{path}: got a mask of several values or colors, expected 0 and one other value in the "
                    f"file of one label: export it again, or save one index mask named as its image"
                )
            if inside.shape != mask.shape:
                got, expected = (f"{shape[1]}x{shape[0]}" for shape in (inside.shape, mask.shape))
                raise DatasetError(
                    f"{path}: got a mask of {got} pixels, expected {expected} as its image: export it again"
                )
            overlap += int(np.count_nonzero(mask[inside]))
            mask[inside] = label
        return Drawn(mask, overlap, 0)


AnyDrawing = ImageRegions | Layers
"""What masks are drawn from."""


def read_per_label(folders: dict[Split, Path]) -> Found | None:
    """Return images with one mask file for each label; None if the folders hold other masks.

    Several labels are required, which are not all numbers as those of instances are, and files of 0 and one
    other value, of which some are looked into here and the rest when they are drawn.

    Args:
        folders: folder of each split, with `images` and `masks`.
    """
    if not any(_may_be(folder) for folder in folders.values()):
        return None
    images = {split: images_of(folder / "images") for split, folder in folders.items()}
    masks = {split: files_by_stem(folder / "masks", MASK_SUFFIXES) for split, folder in folders.items()}
    if any(match_masks(images[split], masks[split]) for split in folders):
        return None
    layers = {split: _layers(images[split], masks[split]) for split in folders}
    if any(images[split].keys() - layers[split].keys() for split in folders):
        return None
    labels = _labels(one for found in layers.values() for one in found.values())
    if not labels:
        return None
    names = (BACKGROUND, *(name for name in labels if name.lower() != BACKGROUND))
    label_of = {name: label for label, name in enumerate(names)}
    files: dict[Split, dict[str, Pair]] = {"train": {}, "val": {}, "unlabeled": {}}
    for split, folder in folders.items():
        for stem, path in images[split].items():
            found = sorted((mask, label_of.get(label, 0)) for label, mask in layers[split][stem].items())
            width, height = size_of(path)
            drawing = Layers(str(folder / "masks" / stem), height, width, tuple(found))
            files[split][f"{split}/{stem}"] = Pair(path, found[0][0], drawing)
    return Found(files, names)


def _may_be(folder: Path) -> bool:
    """Return whether the first image of a folder has no mask of its name; a look at one file."""
    if not (folder / "masks").is_dir() or not (folder / "images").is_dir():
        return False
    with os.scandir(folder / "images") as entries:
        names = (os.path.splitext(entry.name) for entry in entries)  # noqa: PTH122
        first = next((stem for stem, suffix in names if suffix.lower() in IMAGE_SUFFIXES), None)
    ends = (f"{first}{end}" for end in MASK_SUFFIXES)
    return first is not None and not any((folder / "masks" / end).exists() for end in ends)


def _labels(layers: Iterable[dict[str, Path]]) -> list[str]:
    """Return the labels of the masks of each image, sorted; none if these are other masks."""
    paths: dict[str, list[Path]] = defaultdict(list)
    for label, mask in (item for found in layers for item in found.items()):
        paths[label].append(mask)
    if not FEWEST <= len(paths) <= MOST or all(map(str.isdecimal, paths)):
        return []
    if max(map(len, paths.values())) < FEWEST_SHARED:
        return []
    some = [mask for found in paths.values() for mask in evenly_spaced(found, SAMPLED)]
    with ThreadPoolExecutor() as pool:
        return sorted(paths) if all(pool.map(_may_be_of_label, some)) else []


def _may_be_of_label(path: Path) -> bool:
    """Return whether a file holds 0 and one other value, or is broken, which is reported when it is drawn."""
    try:
        return _inside(path) is not None
    except READ_ERRORS:
        return True


def _inside(path: Path) -> NDArray[np.bool_] | None:
    """Return the pixels above 0 of a gray mask of 0 and one other value; None for any other image.

    Raises:
        READ_ERRORS: errors of Pillow for a file that it cannot read.
    """
    with Image.open(path) as image:
        found = image.convert("RGB").getcolors(2)
        colors = sorted(color for _, color in found or () if isinstance(color, tuple))
        if not colors or any(len(set(color)) > 1 for color in colors) or (len(colors) > 1 and any(colors[0])):
            return None
        return np.asarray(image.convert("L")) > 0


def _layers(images: Collection[str], masks: dict[str, Path]) -> dict[str, dict[str, Path]]:
    """Return the masks of each image by label, of the image with the longest name that begins a mask's."""
    found: dict[str, dict[str, Path]] = {}
    for mask, path in masks.items():
        cuts = [at for at, letter in enumerate(mask) if letter in SEPARATORS and mask[:at] in images]
        if cuts and mask[cuts[-1] + 1 :]:
            found.setdefault(mask[: cuts[-1]], {})[mask[cuts[-1] + 1 :]] = path
    return found
