"""Annotations of CVAT: the XML format `CVAT for images 1.1`, with masks, polygons, boxes and ellipses.

A mask is run-length encoded, row by row within its box, the first run being of zeros. Shapes of a higher
`z_order` are on top, and later ones among equals. Format: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from zoo.data.formats.regions import (
    Annotated,
    ellipse,
    fill_polygons,
    from_run_lengths,
    rectangle,
    run_lengths,
    turned,
)
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.classes import Classes
    from zoo.data.formats.regions import Labels, Region

SHAPES = ("mask", "polygon", "box", "ellipse")


class CvatWriter:
    """Annotations of images for CVAT, each class of an image as one mask.

    Args:
        labels: labels of the masks.
    """

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.root = ElementTree.Element("annotations")
        ElementTree.SubElement(self.root, "version").text = "1.1"

    def add(self, name: str, mask: NDArray[np.uint8]) -> None:
        """Add an image.

        Args:
            name: name of its file in the task.
            mask: (H, W) uint8, 0..K-1 or `IGNORE`.
        """
        height, width = mask.shape
        number = len(self.root) - 1
        size = {"width": str(width), "height": str(height)}
        image = ElementTree.SubElement(self.root, "image", {"id": str(number), "name": name} | size)
        for label, region in self.labels.regions(mask):
            rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
            box = region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            where = {"left": columns[0], "top": rows[0], "width": box.shape[1], "height": box.shape[0]}
            runs = ", ".join(map(str, run_lengths(box.ravel())))
            shape = {"label": label, "source": "auto", "occluded": "0", "rle": runs}
            place = {key: str(value) for key, value in where.items()}
            ElementTree.SubElement(image, "mask", shape | place | {"z_order": "0"})

    def text(self) -> str:
        """Return the content of the file."""
        ElementTree.indent(self.root)
        return ElementTree.tostring(self.root, encoding="unicode", xml_declaration=True) + "\n"


def label_constructor(classes: Classes, labels: Labels) -> list[dict[str, Any]]:
    """Return the labels of a CVAT project, as its raw label constructor takes them."""
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in classes.palette]
    drawn = [
        pair for label, pair in enumerate(zip(classes.names, colors, strict=True)) if label != labels.blank
    ]
    return [{"name": name, "color": color, "type": "any", "attributes": []} for name, color in drawn]


def read_cvat(path: Path, labels: Labels) -> Iterator[Annotated]:
    """Yield the images of a file of CVAT.

    Raises:
        DatasetError: a file that is not of CVAT, an unknown label, or a shape that is no region.
    """
    name = ""
    try:
        for _, element in ElementTree.iterparse(path):
            if element.tag == "track":
                raise ValueError("a video with tracks, expected images")
            if element.tag != "image":
                continue
            name = element.attrib["name"]
            size = int(element.attrib["height"]), int(element.attrib["width"])
            order = sorted(
                (shape for shape in element if shape.tag != "tag"),
                key=lambda shape: int(shape.get("z_order", "0")),
            )
            regions = ((shape.attrib["label"], _region(shape, size)) for shape in order)
            yield Annotated(name, labels.draw(size, regions))
            element.clear()
    except (OSError, ElementTree.ParseError, ValueError, KeyError) as error:
        reason = f"no {error}, expected one" if isinstance(error, KeyError) else error
        where = f"{path}: image {name}" if name else f"{path}"
        raise DatasetError(
            f"{where}: got {reason}: correct it in CVAT, and export it again as `CVAT for images 1.1`"
        ) from error


def _region(shape: ElementTree.Element, size: tuple[int, int]) -> Region:
    """Return the pixels of a shape, (H, W)."""
    if shape.tag not in SHAPES:
        raise ValueError(f"a {shape.tag}, expected {', '.join(SHAPES)}")
    found = shape.attrib
    if shape.tag == "polygon":
        points = [float(number) for point in found["points"].split(";") for number in point.split(",")]
        return fill_polygons([points], size)
    if shape.tag in ("box", "ellipse"):
        if shape.tag == "box":
            corners = rectangle(*(float(found[key]) for key in ("xtl", "ytl", "xbr", "ybr")))
        else:
            x, y, *radii = (float(found[key]) for key in ("cx", "cy", "rx", "ry"))
            corners = ellipse((x, y), (radii[0], radii[1]))
        around = corners.mean(axis=0)
        return fill_polygons(
            [turned(corners, around, float(found.get("rotation", "0"))).ravel().tolist()], size
        )
    left, top, width, height = (int(found[key]) for key in ("left", "top", "width", "height"))
    if min(left, top) < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError(
            f"a mask of {width}x{height} pixels at {left},{top}, expected one inside {size[1]}x{size[0]}"
        )
    region = np.zeros(size, np.bool_)
    runs = [int(run) for run in found["rle"].split(",")]
    region[top : top + height, left : left + width] = from_run_lengths(runs, width * height).reshape(
        height, width
    )
    return region
