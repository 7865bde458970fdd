"""Annotations of Label Studio: JSON with brush strokes, polygons, boxes and ellipses.

A brush region is an image of 4 channels whose alpha is the region, flattened and packed bit by bit: 32 bits
for the number of values, 5 for the word size, 4 for each of four sizes of counts (each less one); then
packets: 1 bit whether one value is repeated, 2 bits for the size of the count, the count less one, and the
value or values. The other shapes are in percent of the image.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote
from xml.sax.saxutils import quoteattr

import numpy as np

from zoo.data.formats.regions import Annotated, ellipse, fill_polygons, rectangle, run_lengths, turned
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.classes import Classes
    from zoo.data.formats.regions import Labels, Region

CONTROL, OBJECT = "labels", "image"
"""Names of the tags in the labeling interface."""
CHANNELS = 4
WORD_BITS, COUNT_BITS = 8, (3, 4, 8, 16)
LOCAL_FILES = "/data/local-files/?d="
KINDS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels")
OF_IMAGES = frozenset(
    {"choices", "taxonomy", "rating", "textarea", "number", "datetime", "pairwise", "relation"}
)
"""Types of results that are no regions, but say something about an image or about a region."""
NAME_KEY = "name"
"""Key of the name of the image in a task's data, which exports keep."""


class LabelStudioWriter:
    """Predictions of images for Label Studio, each class of an image as one brush region.

    Args:
        labels: labels of the masks.
        folder: folder of the images, below the root of Label Studio's local files.
        version: name of the model.
    """

    def __init__(self, labels: Labels, folder: str, version: str) -> None:
        self.labels, self.folder, self.version = labels, folder, version
        self.tasks: list[dict[str, Any]] = []

    def add(self, name: str, mask: NDArray[np.uint8]) -> None:
        """Add an image.

        Args:
            name: name of its file in the folder.
            mask: (H, W) uint8, 0..K-1 or `IGNORE`.
        """
        number = len(self.tasks)
        common = {
            "type": "brushlabels",
            "from_name": CONTROL,
            "to_name": OBJECT,
            "original_width": mask.shape[1],
            "original_height": mask.shape[0],
            "image_rotation": 0,
        }
        found = [
            {"id": f"{number}-{label}", **common, "value": _brush(label, region)}
            for label, region in self.labels.regions(mask)
        ]
        data = {OBJECT: LOCAL_FILES + quote(f"{self.folder}/{name}"), NAME_KEY: name}
        self.tasks.append({"data": data, "predictions": [{"model_version": self.version, "result": found}]})

    def text(self) -> str:
        """Return the content of the file."""
        return json.dumps(self.tasks) + "\n"


def labeling_interface(classes: Classes, labels: Labels) -> str:
    """Return the labeling interface of a project, XML."""
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in classes.palette]
    drawn = [
        pair for label, pair in enumerate(zip(classes.names, colors, strict=True)) if label != labels.blank
    ]
    rows = "".join(
        f"    <Label value={quoteattr(name)} background={quoteattr(color)}/>\n" for name, color in drawn
    )
    return (
        f'<View>\n  <Image name="{OBJECT}" value="${OBJECT}" zoom="true"/>\n'
        f'  <BrushLabels name="{CONTROL}" toName="{OBJECT}">\n{rows}  </BrushLabels>\n</View>\n'
    )


def _brush(label: str, region: Region) -> dict[str, Any]:
    return {"format": "rle", "rle": encode(region), "brushlabels": [label]}


def encode(region: Region) -> list[int]:
    """Return the bytes of a brush region.

    Args:
        region: (H, W) bool.
    """
    count = region.size * CHANNELS
    packed = [f"{count:032b}{WORD_BITS - 1:05b}", *(f"{bits - 1:04b}" for bits in COUNT_BITS)]
    largest = 2 ** COUNT_BITS[-1]
    for number, length in enumerate(run_lengths(region.ravel())):
        value = f"{255 * (number % 2):0{WORD_BITS}b}"
        rest = length * CHANNELS
        while rest:
            part = min(rest, largest)
            size = next(at for at, bits in enumerate(COUNT_BITS) if part <= 2**bits)
            packed.append(f"1{size:02b}{part - 1:0{COUNT_BITS[size]}b}{value}")
            rest -= part
    bits = "".join(packed)
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8))


def decode(rle: Sequence[int], size: tuple[int, int]) -> Region:
    """Return a brush region, (H, W) bool.

    Args:
        rle: its bytes.
        size: height and width.

    Raises:
        ValueError: bytes that are not a region of this size.
    """
    bits = f"{int.from_bytes(bytes(rle)):0{8 * len(rle)}b}"
    at = 0

    def read(length: int) -> int:
        nonlocal at
        if at + length > len(bits):
            raise ValueError("a brush region that ends early, expected all of it")
        at += length
        return int(bits[at - length : at], 2)

    count, word = read(32), read(5) + 1
    if count != size[0] * size[1] * CHANNELS:
        raise ValueError(f"a brush region of {count} values, expected {size[1]}x{size[0]}x{CHANNELS}")
    sizes = [read(4) + 1 for _ in COUNT_BITS]
    values, done = np.zeros(count, np.uint32), 0
    while done < count:
        is_run = read(1)
        end = done + read(sizes[read(2)]) + 1
        values[done:end] = read(word) if is_run else [read(word) for _ in range(min(end, count) - done)]
        done = end
    region: Region = values.reshape(*size, CHANNELS)[..., -1] > 0
    return region


def read_label_studio(path: Path, labels: Labels, *, predictions: bool = False) -> Iterator[Annotated]:
    """Yield the annotated images of a file of Label Studio; of several annotations the last.

    Args:
        path: path of the file.
        labels: labels by name.
        predictions: whether a prediction counts where no annotation was submitted.

    Raises:
        DatasetError: a file that is not of Label Studio, an unknown label, a shape that is no region, or no
            annotated image.
    """
    name, found = "", False
    try:
        for task in json.loads(path.read_text(encoding="utf-8-sig")):
            data = task["data"]
            name = str(data.get(NAME_KEY) or unquote(data[OBJECT].removeprefix(LOCAL_FILES)))
            submitted = [one for one in task.get("annotations", []) if not one.get("was_cancelled")]
            if predictions and not submitted:
                submitted = task.get("predictions", [])
            if submitted:
                found = True
                yield _image(name, submitted[-1]["result"], labels)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"no {error}, expected one" if isinstance(error, KeyError) else error
        where = f"{path}: image {name}" if name else f"{path}"
        raise DatasetError(
            f"{where}: got {reason}: correct it in Label Studio, and export it again as JSON"
        ) from error
    if not found:
        raise DatasetError(
            f"{path}: got no submitted annotation, expected at least one: submit them in Label Studio and "
            f"export again, or accept the predictions unseen with --predictions"
        )


def _image(name: str, results: Sequence[dict[str, Any]], labels: Labels) -> Annotated:
    """Return the image of a task whose regions say how large it is.

    Raises:
        ValueError: no region, or a shape that is none.
    """
    regions = [one for one in results if one["type"] not in OF_IMAGES]
    if not regions:
        raise ValueError("an annotation without regions, expected one, which says how large the image is")
    size = int(regions[0]["original_height"]), int(regions[0]["original_width"])
    return Annotated(name, labels.draw(size, (_region(one, size) for one in regions)))


def _region(result: dict[str, Any], size: tuple[int, int]) -> tuple[str, Region]:
    """Return the name and the pixels, (H, W), of a region."""
    kind, value = result["type"], result["value"]
    if kind not in KINDS:
        raise ValueError(f"a result of the type {kind}, expected {', '.join(KINDS)}")
    if result.get("image_rotation"):
        raise ValueError("a rotated image, expected none")
    if len(value[kind]) != 1:
        raise ValueError(f"a region of {len(value[kind])} labels, expected one")
    [label] = value[kind]
    if kind == "brushlabels":
        return label, decode(value["rle"], size)
    return label, fill_polygons([_corners(kind, value, size).ravel().tolist()], size)


def _corners(kind: str, value: dict[str, Any], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the corners of a polygon, rectangle or ellipse in pixels, (N, 2) x, y.

    Rectangles are turned around their upper left corner, ellipses around their center.
    """
    scale = np.array((size[1] / 100, size[0] / 100))
    if kind == "polygonlabels":
        corners: NDArray[np.float64] = np.array(value["points"], float) * scale
        return corners
    start = np.array((value["x"], value["y"]), float) * scale
    if kind == "ellipselabels":
        radii = np.array((value["radiusX"], value["radiusY"]), float) * scale
        corners = ellipse(start, (radii[0], radii[1]))
    else:
        corners = rectangle(*start, *(start + np.array((value["width"], value["height"]), float) * scale))
    return turned(corners, start, float(value.get("rotation") or 0))
