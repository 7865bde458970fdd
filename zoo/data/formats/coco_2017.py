"""COCO 2017 with 81 classes: 118,287 training and 5,000 validation images, the background and 80 categories.

Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014. In DIR, the layout of UniMatch and others:

- `train2017/ID.jpg` and `val2017/ID.jpg`;
- `masks/ID.png` for both: 0 for the background, 1..80 for the categories in the order of their official ids,
  255 for crowds.

COCO publishes no such masks: `zoo data prepare coco` draws them from the instance annotations once. Where
objects overlap, the smaller one is on top.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.classes import Classes
from zoo.data.files import FileSource
from zoo.data.formats.official import Layout, find_root, pairs_in

if TYPE_CHECKING:
    from zoo.data.source import Split

SPLITS: dict[Split, str] = {"train": "train2017", "val": "val2017"}
MASKS = "masks"
LAYOUT = Layout("coco", (), (*SPLITS.values(), MASKS))

CLASSES = Classes.of(
    (
        "background", "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
        "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
        "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag",
        "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat",
        "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork",
        "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog",
        "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv",
        "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
        "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
    )
)  # fmt: skip
"""The classes, in the colors of VOC's palette: the data set defines none."""


class Coco2017Source(FileSource):
    """COCO 2017 as a source.

    Args:
        spec: `coco:folder`.

    Raises:
        DatasetError: a folder or the mask of an image is missing.
    """

    def __init__(self, spec: str) -> None:
        root = find_root(spec, LAYOUT)
        super().__init__(
            spec, CLASSES, pairs_in(root, {split: (name, MASKS) for split, name in SPLITS.items()})
        )
