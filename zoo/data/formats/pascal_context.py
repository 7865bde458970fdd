"""PASCAL-Context: the images of PASCAL VOC 2010 with every pixel in one of 59 classes or the background.

Mottaghi et al., The Role of Context for Object Detection and Semantic Segmentation in the Wild, CVPR 2014. In
DIR, or in DIR/VOCdevkit/VOC2010, the layout that mmsegmentation and others write:

- `JPEGImages/ID.jpg`;
- `SegmentationClassContext/ID.png`: 0 for the background, 1..59 for the classes in alphabetical order;
- `ImageSets/SegmentationContext/{train,val}.txt`.

`pascal-context:DIR` has 60 classes including the background, as in the papers of this zoo;
`pascal-context-59:DIR` ignores the background.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.classes import IGNORE, Classes
from zoo.data.files import FileSource
from zoo.data.formats.official import Layout, find_root, pairs_of, read_names
from zoo.data.labels import LabelMap

if TYPE_CHECKING:
    from zoo.data.files import Pair
    from zoo.data.source import Split

IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClassContext", "ImageSets/SegmentationContext"
LAYOUT = Layout("pascal-context", ("VOCdevkit/VOC2010", "VOC2010"), (IMAGES, MASKS, LISTS))

CLASSES = Classes.of(
    (
        "background", "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book",
        "bottle", "building", "bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow",
        "cup", "curtain", "dog", "door", "fence", "floor", "flower", "food", "grass", "ground", "horse",
        "keyboard", "light", "motorbike", "mountain", "mouse", "person", "plate", "platform", "pottedplant",
        "road", "rock", "sheep", "shelves", "sidewalk", "sign", "sky", "snow", "sofa", "table", "track",
        "train", "tree", "truck", "tvmonitor", "wall", "water", "window", "wood",
    )
)  # fmt: skip
"""The classes, in the colors of VOC's palette: the data set defines none."""

FOREGROUND = Classes(CLASSES.names[1:], CLASSES.palette[1:])

OFFICIAL_IDS = (
    0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144,
    158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355,
    360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
"""Ids of `CLASSES` among the 459 categories of the official annotations; all others are background."""


class PascalContextSource(FileSource):
    """PASCAL-Context as a source.

    Args:
        spec: `pascal-context:folder` or `pascal-context-59:folder`.

    Raises:
        DatasetError: a folder, a list or a file is missing.
    """

    def __init__(self, spec: str) -> None:
        root = find_root(spec, LAYOUT)
        files: dict[Split, dict[str, Pair]] = {
            split: pairs_of(read_names(root / LISTS / f"{split}.txt"), root / IMAGES, root / MASKS, split)
            for split in ("train", "val")
        }
        with_background = not spec.startswith("pascal-context-59:")
        codes = tuple((value, value if with_background else value - 1) for value in range(1, len(CLASSES)))
        labels = LabelMap(((0, 0 if with_background else IGNORE), *codes, (IGNORE, IGNORE)))
        super().__init__(spec, CLASSES if with_background else FOREGROUND, files, labels)
