"""PASCAL-Context: every pixel of the images of PASCAL VOC 2010 in one of 59 classes, or in the background.

Mottaghi et al., The Role of Context for Object Detection and Semantic Segmentation in the Wild, CVPR 2014. In
DIR, or in DIR/VOCdevkit/VOC2010, the layout that mmsegmentation and others write:

- `JPEGImages/ID.jpg`;
- `SegmentationClassContext/ID.png`: values 0..59, 0 the background, 1..59 the classes in the order of the
  alphabet;
- `ImageSets/SegmentationContext/{train,val}.txt`.

`pascal-context:DIR` has 60 classes, the background among them, as the papers of this zoo; with
`pascal-context-59:DIR` the background is ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.classes import IGNORE, Classes
from zoo.data.files import FileSource
from zoo.data.labels import LabelMap
from zoo.data.official import Layout, find_root, pairs_of, read_names

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
"""The data set has no colors of its own: these are VOC's, by label."""

FOREGROUND = Classes(CLASSES.names[1:], CLASSES.palette[1:])

OFFICIAL_IDS = (
    0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144,
    158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355,
    360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
"""The numbers of `CLASSES` among the 459 categories of the official annotations; others are background."""


class PascalContextSource(FileSource):
    """PASCAL-Context.

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
