"""Mask files that preparation writes: index PNG, and those of COCO, drawn from its instance annotations."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from PIL import Image

from zoo.bundle.bundle import replacing
from zoo.classes import default_palette
from zoo.data.data_file import CocoOptions
from zoo.data.formats import coco_2017
from zoo.data.formats.coco import read_annotations
from zoo.data.formats.drawing import check_can_draw
from zoo.data.formats.official import find_root, images_of
from zoo.data.prepare.unpack import unpack, working_folder
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from zoo.data.formats.drawing import ImageRegions
    from zoo.data.prepare.download import Report

log = logging.getLogger(__name__)

PALETTE = [channel for color in default_palette(256) for channel in color]
INSTANCES = "annotations/instances_{}.json"


def save_mask(labels: NDArray[np.uint8], path: Path) -> None:
    """Write labels, (H, W), as an index PNG in the colors of VOC's palette."""
    mask = Image.fromarray(labels)
    mask.putpalette(PALETTE)
    mask.save(path, format="PNG")


def add_coco(archive: Path, folder: Path, report: Report) -> None:
    """Draw the masks of COCO 2017 that are missing from a folder; an interrupted run continues.

    Args:
        archive: `annotations_trainval2017.zip`: `annotations/instances_{train,val}2017.json`.
        folder: folder of COCO 2017 with the images of both splits.
        report: called with a description and the number of masks done.

    Raises:
        DatasetError: pycocotools is not installed, images are missing, or the archive is not that of COCO.
    """
    check_can_draw(archive)
    splits = tuple(coco_2017.SPLITS.values())
    root = find_root(f"coco:{folder}", coco_2017.LAYOUT._replace(folders=splits))
    masks = root / coco_2017.MASKS
    masks.mkdir(exist_ok=True)
    there = {path.stem for path in masks.glob("*.png")}
    with working_folder(root) as working:
        wanted = {INSTANCES.format(split) for split in splits}
        unpack(archive, working, lambda name: name in wanted, report)
        for split in splits:
            drawings = _drawings(archive, working / INSTANCES.format(split))
            images_of(drawings, root / split, split)
            for done, name in enumerate(sorted(drawings.keys() - there), start=1):
                with replacing(masks / f"{name}.png") as temporary:
                    save_mask(drawings[name].draw(), temporary)
                report(f"drawing masks of {split}", done, None)


def _drawings(archive: Path, path: Path) -> dict[str, ImageRegions]:
    """Return the drawing of each image of a split by its name."""
    if not path.is_file():
        raise DatasetError(
            f"{archive}: got no {INSTANCES.format('*')}, expected the instances of both splits: this is not "
            f"the official archive"
        )
    names, drawings, _, skipped = read_annotations(path, CocoOptions(unusable="skip"))
    if names != coco_2017.CLASSES.names:
        raise DatasetError(
            f"{archive}: got {len(names) - 1} categories, expected the {len(coco_2017.CLASSES) - 1} of COCO: "
            f"this is not the official archive"
        )
    if skipped:
        log.warning("%s: %d annotations without a usable segmentation are left out", path.name, len(skipped))
    return drawings
