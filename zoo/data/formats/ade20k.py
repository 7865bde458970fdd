"""ADE20K of the Scene Parsing Challenge 2016: 20,210 training and 2,000 validation images, 150 classes.

Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017. In DIR, or in DIR/ADEChallengeData2016, as the
official archive unpacks:

- `images/{training,validation}/NAME.jpg`;
- `annotations/{training,validation}/NAME.png`: 1..150 for the classes, 0 for the rest, which is ignored.

Masks that someone shifted to 0..149 and 255 are an error, as 255 is no official value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.classes import IGNORE, Classes
from zoo.data.files import FileSource
from zoo.data.formats.official import Layout, find_root, pairs_in
from zoo.data.labels import LabelMap

if TYPE_CHECKING:
    from zoo.data.source import Split

IMAGES, MASKS = "images", "annotations"
SPLITS: dict[Split, str] = {"train": "training", "val": "validation"}
LAYOUT = Layout(
    "ade20k",
    ("ADEChallengeData2016",),
    tuple(f"{top}/{split}" for top in (IMAGES, MASKS) for split in SPLITS.values()),
)

CLASSES = Classes.of(
    (
        "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass",
        "cabinet", "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair",
        "car", "water", "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field", "armchair",
        "seat", "fence", "desk", "rock", "wardrobe", "lamp", "bathtub", "railing", "cushion", "base", "box",
        "column", "signboard", "chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace",
        "refrigerator", "grandstand", "path", "stairs", "runway", "case", "pool table", "pillow",
        "screen door", "stairway", "river", "bridge", "bookcase", "blind", "coffee table", "toilet",
        "flower", "book", "hill", "bench", "countertop", "stove", "palm", "kitchen island", "computer",
        "swivel chair", "boat", "bar", "arcade machine", "hovel", "bus", "towel", "light", "truck", "tower",
        "chandelier", "awning", "streetlight", "booth", "television receiver", "airplane", "dirt track",
        "apparel", "pole", "land", "bannister", "escalator", "ottoman", "bottle", "buffet", "poster",
        "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer", "plaything",
        "swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle",
        "oven", "ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle",
        "lake", "dishwasher", "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light",
        "tray", "ashcan", "fan", "pier", "crt screen", "plate", "monitor", "bulletin board", "shower",
        "radiator", "glass", "clock", "flag",
    )
)  # fmt: skip
"""The classes, each by the first of its official names, in the colors of VOC's palette."""

LABELS = LabelMap(((0, IGNORE), *((value, value - 1) for value in range(1, len(CLASSES) + 1))))


class Ade20kSource(FileSource):
    """ADE20K as a source.

    Args:
        spec: `ade20k:folder`.

    Raises:
        DatasetError: a folder or the mask of an image is missing.
    """

    def __init__(self, spec: str) -> None:
        root = find_root(spec, LAYOUT)
        folders = {split: (f"{IMAGES}/{name}", f"{MASKS}/{name}") for split, name in SPLITS.items()}
        super().__init__(spec, CLASSES, pairs_in(root, folders), LABELS)
