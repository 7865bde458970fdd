"""COCO instance annotations as semantic masks.

Label 0 is the background; the categories follow in the order of their ids. Crowd regions become `IGNORE`.
Where objects overlap, the smaller one is on top. Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zoo.classes import IGNORE
from zoo.data.formats.polygons import trace
from zoo.data.formats.regions import BACKGROUND, IGNORED, Annotated, Labels
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

ANNOTATIONS = "annotations.json"
FARTHEST = 1e6
"""Largest valid coordinate, in pixels."""


class Region(NamedTuple):
    """An annotated object or crowd."""

    segmentation: list[list[float]] | dict[str, Any]
    """Polygons, or run-length encoding as pycocotools reads it."""
    label: int
    """1..K-1, `IGNORE` for a crowd, 0 for a category named background."""


class Drawing(NamedTuple):
    """The regions of an image, from which its mask is drawn."""

    where: str
    """File and image, for messages."""
    height: int
    width: int
    regions: tuple[Region, ...]

    def draw(self) -> NDArray[np.uint8]:
        """Return the mask, (H, W) uint8, 0..K-1 or `IGNORE`.

        Raises:
            DatasetError: a run-length encoding that does not fit the image.
        """
        from pycocotools.mask import area, decode, frPyObjects, merge

        mask = np.zeros((self.height, self.width), np.uint8)
        try:
            runs = []
            for region in self.regions:
                found = region.segmentation
                if isinstance(found, list) or isinstance(found["counts"], list):
                    found = frPyObjects(found, self.height, self.width)
                runs.append(merge(found) if isinstance(found, list) else found)
            sizes = [int(area(run)) for run in runs]
            # crowds lowest, then the larger objects
            order = sorted(
                range(len(runs)), key=lambda index: (self.regions[index].label != IGNORE, -sizes[index])
            )
            for index in order:
                mask[decode(runs[index]).astype(bool)] = self.regions[index].label
        except (ValueError, TypeError, IndexError) as error:
            raise DatasetError(
                f"{self.where}: got a segmentation that cannot be drawn ({error}), expected polygons or runs "
                f"of {self.width}x{self.height} pixels: correct or remove it"
            ) from error
        return mask


class Annotations(NamedTuple):
    """Contents of an annotation file."""

    names: tuple[str, ...]
    """Class names, the background first."""
    drawings: dict[str, Drawing]
    """Drawing of each image by its relative path without suffix."""

    def find(self, stem: str) -> Drawing | None:
        """Return the drawing of an image by its relative path, or else by its name alone."""
        return self.drawings.get(stem) or self.drawings.get(PurePosixPath(stem).name)


def read_annotations(path: Path) -> Annotations:
    """Return the contents of a COCO instance file.

    Raises:
        DatasetError: the file is not COCO JSON, or pycocotools is not installed.
    """
    if find_spec("pycocotools") is None:
        raise DatasetError(
            f"{path}: got COCO annotations, expected pycocotools to draw them: "
            f"pip install 'semiseg-zoo[coco]'"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names, label_of = _categories(content["categories"])
        regions = _regions(content["annotations"], label_of)
        drawings: dict[str, Drawing] = {}
        for image in content["images"]:
            stem = PurePosixPath(image["file_name"].replace("\\", "/")).with_suffix("").as_posix()
            where = f"{path}: image {image['file_name']}"
            if stem in drawings:
                raise ValueError(f"the image {stem} is listed twice")
            found = tuple(regions.pop(image["id"], ()))
            drawings[stem] = Drawing(where, int(image["height"]), int(image["width"]), found)
        if regions:
            raise ValueError(f"annotations of the image id {next(iter(regions))}, which is not listed")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise DatasetError(
            f"{path}: got a file that cannot be used ({reason}), expected COCO instance annotations with "
            f"images, annotations and categories: export it again"
        ) from error
    return Annotations(names, drawings)


def read_coco(path: Path, labels: Labels) -> Iterator[Annotated]:
    """Yield the images of a COCO instance file.

    Raises:
        DatasetError: the file is not COCO JSON, a category is no class, or pycocotools is not installed.
    """
    names, drawings = read_annotations(path)
    table = np.full(IGNORE + 1, IGNORE, np.uint8)
    table[0] = labels.blank
    try:
        table[1 : len(names)] = [labels[name] for name in names[1:]]
    except ValueError as error:
        raise DatasetError(f"{path}: got {error}: rename the category, and export it again") from error
    for stem, drawing in drawings.items():
        yield Annotated(stem, table[drawing.draw()])


class CocoWriter:
    """COCO annotations of images, each connected part of a class as polygons along the edges of pixels.

    Args:
        labels: labels of the masks.
    """

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        names = [name for label, name in enumerate(labels.names) if label != labels.blank]
        self.ids = {name: number for number, name in enumerate(names, start=1)}
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, name: str, mask: NDArray[np.uint8]) -> None:
        """Add an image.

        Args:
            name: name of its file.
            mask: (H, W) uint8, 0..K-1 or `IGNORE`.
        """
        height, width = mask.shape
        image = len(self.images) + 1
        self.images.append({"id": image, "file_name": name, "height": height, "width": width})
        for label, region in self.labels.regions(mask):
            is_crowd = label == IGNORED and label not in self.ids
            for polygons in trace(region):
                corners = np.concatenate([np.reshape(points, (-1, 2)) for points in polygons])
                (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
                self.annotations.append(
                    {
                        "id": len(self.annotations) + 1,
                        "image_id": image,
                        "category_id": self.ids.get(label, 1),
                        "segmentation": polygons,
                        "bbox": [left, top, right - left, bottom - top],
                        "area": sum(map(_area, polygons)),
                        "iscrowd": int(is_crowd),
                    }
                )

    def text(self) -> str:
        """Return the content of the file."""
        categories = [{"id": number, "name": name} for name, number in self.ids.items()]
        content = {"images": self.images, "annotations": self.annotations, "categories": categories}
        return json.dumps(content) + "\n"


def _area(points: list[int]) -> int:
    """Return the number of pixels in a polygon along their edges."""
    x, y = np.reshape(points, (-1, 2)).T
    return abs(int(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))) // 2


def _categories(categories: Iterable[dict[str, Any]]) -> tuple[tuple[str, ...], dict[int, int]]:
    """Return the names of the labels, and the label of each category id."""
    ordered = sorted(categories, key=lambda category: int(category["id"]))
    others = [category for category in ordered if category["name"].lower() != BACKGROUND]
    names = (BACKGROUND, *(category["name"] for category in others))
    label_of = {category["id"]: 0 for category in ordered}
    label_of |= {category["id"]: label for label, category in enumerate(others, start=1)}
    if len(label_of) < len(ordered) or len(set(names)) < len(names):
        raise ValueError("a category id or name twice")
    if not 2 <= len(names) <= IGNORE:
        raise ValueError(f"{len(others)} categories, not 1..{IGNORE - 1}")
    return names, label_of


def _regions(annotations: Iterable[dict[str, Any]], label_of: dict[int, int]) -> dict[int, list[Region]]:
    """Return the regions of each image id, in the order of the file."""
    found: dict[int, list[Region]] = defaultdict(list)
    for annotation in annotations:
        name = f"annotation {annotation['id']}"
        if annotation["category_id"] not in label_of:
            raise ValueError(f"{name} of the category id {annotation['category_id']}, which is not listed")
        label = IGNORE if annotation.get("iscrowd") else label_of[annotation["category_id"]]
        segmentation = annotation.get("segmentation")
        if not _is_drawable(segmentation):
            raise ValueError(f"{name} without a usable segmentation: {str(segmentation)[:60]}")
        found[annotation["image_id"]].append(Region(segmentation, label))  # type: ignore[arg-type]
    return dict(found)


def _is_drawable(segmentation: object) -> bool:
    """Return whether a segmentation is a list of polygons of at least three points, or run-length encoded."""
    if isinstance(segmentation, dict):
        return isinstance(segmentation.get("counts"), str | list) and "size" in segmentation
    return (
        isinstance(segmentation, list)
        and bool(segmentation)
        and all(
            isinstance(polygon, list)
            and len(polygon) >= 6
            and len(polygon) % 2 == 0
            and all(math.isfinite(number) and abs(number) <= FARTHEST for number in polygon)
            for polygon in segmentation
        )
    )
