"""COCO instance annotations as semantic masks.

Label 0 is the background; the categories follow in the order of their ids, without unused supercategories.
Crowd regions become `IGNORE`. Where objects overlap, the smaller one is on top, or the later one if
`data.toml` says so. Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from contextlib import suppress
from itertools import takewhile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from unicodedata import normalize

import numpy as np

from zoo.classes import IGNORE
from zoo.data.data_file import CocoOptions
from zoo.data.formats.drawing import ImageRegions, Region, check_can_draw
from zoo.data.formats.polygons import trace
from zoo.data.formats.regions import BACKGROUND, FARTHEST, IGNORED, Annotated, Labels
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

ANNOTATIONS = "annotations.json"
MOST_LISTED = 6
"""Number of annotations that an error lists."""


class Annotations(NamedTuple):
    """Contents of an annotation file."""

    names: tuple[str, ...]
    """Class names, the background first."""
    drawings: dict[str, ImageRegions]
    """Drawing of each image by its path in the file without suffix."""
    unused: tuple[str, ...] = ()
    """Supercategories without annotations, which are no classes."""
    skipped: tuple[str, ...] = ()
    """Annotations that are skipped, as `data.toml` says."""

    def match(self, stems: Iterable[str]) -> Matches:
        """Return the drawings of images, matched by the longest common end of their paths.

        Args:
            stems: relative paths of the images without suffix.
        """
        entries = _by_name(self.drawings)
        found: dict[str, ImageRegions] = {}
        unclear: dict[str, str] = {}
        for name, images in _by_name(stems).items():
            for stem in images:
                near = _nearest(stem, entries.get(name, []))
                rivals = _nearest(near[0], images) if near else []
                if len(near) > 1:
                    unclear[stem] = f"the entries {near[0]} and {near[1]}, each of which may be it"
                elif stem in rivals and len(rivals) > 1:
                    unclear[stem] = f"the entry {near[0]}, which may be {rivals[0]} or {rivals[1]}"
                elif stem in rivals:
                    found[stem] = self.drawings[near[0]]
        return Matches(found, unclear)


class Matches(NamedTuple):
    """Drawings of images."""

    found: dict[str, ImageRegions]
    unclear: dict[str, str]
    """Why it is not clear which drawing is that of an image."""


def _by_name(stems: Iterable[str]) -> dict[str, list[str]]:
    """Return paths by their last part."""
    found: dict[str, list[str]] = defaultdict(list)
    for stem in stems:
        found[_parts(stem)[-1]].append(stem)
    return found


def _parts(stem: str) -> list[str]:
    """Return the parts of a path, with letters and their accents composed."""
    return normalize("NFC", stem).split("/")


def _nearest(stem: str, others: Iterable[str]) -> list[str]:
    """Return the paths with the longest common end with a path."""
    shared: dict[int, list[str]] = defaultdict(list)
    for other in others:
        pairs = zip(reversed(_parts(stem)), reversed(_parts(other)), strict=False)
        shared[sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))].append(other)
    return shared[max(shared)] if shared else []


def read_annotations(path: Path, options: CocoOptions | None = None, *beside: Path) -> Annotations:
    """Return the contents of a COCO instance file.

    Args:
        path: path of the file.
        options: how to read it; None for the defaults.
        beside: annotations of other splits, whose categories are used too.

    Raises:
        DatasetError: the file is not COCO JSON, or pycocotools is not installed.
    """
    options = options or CocoOptions()
    check_can_draw(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        used = _used(content) | _used_beside(other for other in beside if other != path)
        categories, unused = _without_parents(content["categories"], used)
        names, label_of = _categories(categories)
        regions, skipped = _regions(content["annotations"], label_of, options)
        drawings: dict[str, ImageRegions] = {}
        for image in content["images"]:
            stem = stem_of(image["file_name"])
            where = f"{path}: image {image['file_name']}"
            if stem in drawings:
                raise ValueError(f"the image {stem} is listed twice")
            found = tuple(regions.pop(image["id"], ()))
            drawings[stem] = ImageRegions(
                where, int(image["height"]), int(image["width"]), found, options.order
            )
        if regions:
            raise ValueError(f"annotations of the image id {next(iter(regions))}, which is not listed")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise DatasetError(
            f"{path}: got a file that cannot be used ({reason}), expected COCO instance annotations with "
            f"images, annotations and categories: export it again"
        ) from error
    return Annotations(names, drawings, unused, skipped)


def stem_of(name: str) -> str:
    """Return the path of an image in a COCO file, without suffix."""
    return PurePosixPath(name.replace("\\", "/")).with_suffix("").as_posix()


def _used(content: dict[str, Any]) -> set[Any]:
    """Return the ids of the categories with annotations."""
    return {annotation.get("category_id") for annotation in content["annotations"]}


def _used_beside(paths: Iterable[Path]) -> set[Any]:
    """Return the ids of the categories with annotations in other files; of broken ones none."""
    found: set[Any] = set()
    for path in paths:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            found |= _used(json.loads(path.read_text(encoding="utf-8-sig")))
    return found


def _without_parents(
    categories: list[dict[str, Any]], used: Collection[Any]
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return the categories without supercategories of others that have no annotations, and the latter."""
    parents = [
        one
        for one in categories
        if one["id"] not in used
        and any(other.get("supercategory") == one["name"] for other in categories if other is not one)
    ]
    return [one for one in categories if one not in parents], tuple(one["name"] for one in parents)


def read_coco(path: Path, labels: Labels) -> Iterator[Annotated]:
    """Yield the images of a COCO instance file.

    Raises:
        DatasetError: the file is not COCO JSON, a category is no class, or pycocotools is not installed.
    """
    names, drawings, *_ = read_annotations(path)
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


def _regions(
    annotations: Iterable[dict[str, Any]], label_of: dict[int, int], options: CocoOptions
) -> tuple[dict[int, list[Region]], tuple[str, ...]]:
    """Return the regions of each image id, in the order of the file, and the annotations that are skipped."""
    found: dict[int, list[Region]] = defaultdict(list)
    bad: dict[str, str] = {}
    for annotation in annotations:
        name = f"annotation {annotation['id']}"
        if annotation["category_id"] not in label_of:
            raise ValueError(f"{name} of the category id {annotation['category_id']}, which is not listed")
        label = IGNORE if annotation.get("iscrowd") else label_of[annotation["category_id"]]
        segmentation = annotation.get("segmentation")
        if not _is_drawable(segmentation):
            bad[name] = str(segmentation)[:60]
        else:
            area = annotation.get("area")
            found[annotation["image_id"]].append(Region(segmentation, label, area))  # type: ignore[arg-type]
    if bad and options.unusable == "error":
        first = next(iter(bad))
        more = f", and {len(bad) - 1} more ({', '.join(list(bad)[1:MOST_LISTED])}" if len(bad) > 1 else ""
        more += ", ...)" if len(bad) > MOST_LISTED else ")" if more else ""
        raise ValueError(
            f'{first} without a usable segmentation: {bad[first]}{more}; [coco] unusable = "skip" in '
            f"data.toml leaves such annotations out"
        )
    return dict(found), tuple(bad)


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
