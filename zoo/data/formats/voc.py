"""PASCAL VOC 2012, alone or with the masks of SBD.

Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010; Hariharan et al., Semantic Contours
from Inverse Detectors, ICCV 2011 (SBD).

- `voc:DIR`, called blended or augmented in papers: 10,582 training images, 1,464 with VOC's own masks and
  9,118 with the coarser ones of SBD;
- `voc-classic:DIR`: only the 1,464 have masks; the other images, if present, are unlabeled.

Both read the official layout in DIR, or in DIR/VOCdevkit/VOC2012:

- `JPEGImages/ID.jpg`;
- `SegmentationClass/ID.png`: VOC's own masks, index PNG, 255 at object borders;
- `SegmentationClassAug/ID.png`: masks of SBD in the same format, as other toolboxes write them;
- `ImageSets/Segmentation/{train,val}.txt` and, optionally, `trainaug.txt`. Without it, the training images
  are those of `train.txt` and all of `SegmentationClassAug` except those of `val.txt`.

Images of `train.txt` always have VOC's own masks. The 1,449 images of `val.txt` are the split `val` of both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from zoo.classes import Classes
from zoo.data.files import FileSource, Pair
from zoo.data.formats.official import Layout, find_root, images_of, pairs_of, read_names
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

LISTS, OWN_MASKS, ADDED_MASKS = "ImageSets/Segmentation", "SegmentationClass", "SegmentationClassAug"
IMAGES = "JPEGImages"
LAYOUT = Layout("voc", ("VOCdevkit/VOC2012", "VOC2012"), (IMAGES, OWN_MASKS, LISTS))

CLASSES = Classes.of(
    (
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
        "tvmonitor",
    )
)  # fmt: skip


class VocSource(FileSource):
    """PASCAL VOC 2012 as a source.

    Args:
        spec: `voc:folder` or `voc-classic:folder`.
        masks: `all` to use the masks of SBD, `own` to use only those of VOC.

    Raises:
        DatasetError: a folder, a list or a file is missing, or a training image is one of `val`.
    """

    def __init__(self, spec: str, masks: Literal["all", "own"] = "all") -> None:
        root = find_root(spec, LAYOUT)
        own, val = (read_names(root / LISTS / f"{name}.txt") for name in ("train", "val"))
        added = _added_names(root, own, val)
        images = root / IMAGES
        train = pairs_of(own, images, root / OWN_MASKS, "train")
        self._precise_ids = frozenset(train)
        unlabeled: dict[str, Pair] = {}
        if masks == "own":
            # same ids as in `voc:`, so that a list gives the same partition of both
            unlabeled = images_of(added, images, "train")
        elif added:
            train |= pairs_of(added, images, root / ADDED_MASKS, "train")
        else:
            folder = spec.partition(":")[2]
            raise DatasetError(
                f"{spec}: got no {ADDED_MASKS} in {root}, expected the masks of SBD: run zoo data prepare "
                f"voc {folder}, or take voc-classic:{folder} for VOC's own {len(own)} masks"
            )
        files = {"val": pairs_of(val, images, root / OWN_MASKS, "val")}
        files |= {"train": dict(sorted(train.items())), "unlabeled": unlabeled}
        super().__init__(spec, CLASSES, files)  # type: ignore[arg-type]

    def precise_ids(self) -> frozenset[str]:
        return self._precise_ids


def _added_names(root: Path, own: tuple[str, ...], val: tuple[str, ...]) -> tuple[str, ...]:
    """Return the training images without a mask of VOC's own; none if SBD is missing."""
    path = root / LISTS / "trainaug.txt"
    if not path.is_file():
        masks = {mask.stem for mask in (root / ADDED_MASKS).glob("*.png")}
        return tuple(sorted(masks.difference(own, val)))
    names = read_names(path)
    leaked = sorted(set(names).intersection(val))
    if leaked:
        raise DatasetError(
            f"{path}: got {leaked[0]} and {len(leaked) - 1} more images of val.txt, expected none of them in "
            f"training: remove them"
        )
    return tuple(sorted(set(names).difference(own)))
