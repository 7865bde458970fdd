"""Cityscapes: street scenes seen from a car, 2,975 training and 500 validation images of 2048 x 1024.

Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016. In DIR, as the
official archives unpack:

- `leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png`;
- `gtFine/{train,val}/CITY/NAME_gtFine_labelIds.png`: values 0..33, of which 19 are classes and the others
  ignored; or, where these are missing, `NAME_gtFine_labelTrainIds.png`, values 0..18 and 255;
- `leftImg8bit/train_extra/CITY/NAME_leftImg8bit.png`: 19,998 more images.

`cityscapes:DIR` leaves `train_extra` out, as the published partitions do; `cityscapes-extra:DIR` adds it as
unlabeled images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.classes import IGNORE, Classes
from zoo.data.files import FileSource, Pair
from zoo.data.formats.official import Layout, find_root
from zoo.data.labels import LabelMap
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.data.source import Split

IMAGES, MASKS, EXTRA = "leftImg8bit", "gtFine", "leftImg8bit/train_extra"
IMAGE_END, ID_END, TRAIN_ID_END = "_leftImg8bit", "_gtFine_labelIds", "_gtFine_labelTrainIds"
LAYOUT = Layout(
    "cityscapes", (), tuple(f"{top}/{split}" for top in (IMAGES, MASKS) for split in ("train", "val"))
)

NAMES_AND_COLORS = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
CLASSES = Classes(tuple(NAMES_AND_COLORS), tuple(NAMES_AND_COLORS.values()))

COUNTED_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Official ids of the 19 classes, in class order; the other ids of the 34 are ignored."""

LABELS = LabelMap(tuple((id_, COUNTED_IDS.index(id_) if id_ in COUNTED_IDS else IGNORE) for id_ in range(34)))


class CityscapesSource(FileSource):
    """Cityscapes as a source.

    Args:
        spec: `cityscapes:folder` or `cityscapes-extra:folder`.

    Raises:
        DatasetError: a folder or the mask of an image is missing.
    """

    def __init__(self, spec: str) -> None:
        root = find_root(spec, LAYOUT)
        end = _mask_end(root)
        files: dict[Split, dict[str, Pair]] = {
            "train": _pairs(root, "train", end),
            "unlabeled": _extra(spec, root) if spec.startswith("cityscapes-extra:") else {},
            "val": _pairs(root, "val", end),
        }
        super().__init__(spec, CLASSES, files, LABELS if end == ID_END else None)


def _mask_end(root: Path) -> str:
    """Return the suffix of the mask files: that of official ids if there are any, or that of train ids."""
    is_official = next((root / MASKS / "train").glob(f"*/*{ID_END}.png"), None) is not None
    return ID_END if is_official else TRAIN_ID_END


def _names(folder: Path) -> list[str]:
    """Return the images of a folder as CITY/NAME, sorted."""
    found = sorted(folder.glob(f"*/*{IMAGE_END}.png"))
    if not found:
        raise DatasetError(
            f"{folder}: got no images, expected CITY/NAME{IMAGE_END}.png as in the official archive: unpack "
            f"it again"
        )
    return [f"{path.parent.name}/{path.stem.removesuffix(IMAGE_END)}" for path in found]


def _pairs(root: Path, split: str, end: str) -> dict[str, Pair]:
    images, masks = root / IMAGES / split, root / MASKS / split
    there = {path.relative_to(masks).as_posix() for path in masks.glob(f"*/*{end}.png")}
    names = _names(images)
    missing = [name for name in names if f"{name}{end}.png" not in there]
    if missing:
        raise DatasetError(
            f"{masks}: got no {missing[0]}{end}.png ({len(missing)} of {len(names)} masks are missing), "
            f"expected one for every image in {images}: unpack gtFine_trainvaltest.zip again"
        )
    return {
        f"{split}/{name}": Pair(images / f"{name}{IMAGE_END}.png", masks / f"{name}{end}.png")
        for name in names
    }


def _extra(spec: str, root: Path) -> dict[str, Pair]:
    folder = root / EXTRA
    if not folder.is_dir():
        raise DatasetError(
            f"{spec}: got no {EXTRA} in {root}, expected the images of leftImg8bit_trainextra.zip: unpack it "
            f"there, or take cityscapes:{root}"
        )
    return {f"unlabeled/{name}": Pair(folder / f"{name}{IMAGE_END}.png", None) for name in _names(folder)}
