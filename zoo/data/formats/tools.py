"""Regions of YOLO and Supervisely, from which masks are drawn; the later ones are on top."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml  # type: ignore[import-untyped]
from PIL import Image

from zoo.classes import IGNORE
from zoo.data.files import IMAGE_SUFFIXES, Pair, add_pair
from zoo.data.formats.coco import stem_of
from zoo.data.formats.drawing import ImageRegions, Region, check_can_draw
from zoo.data.formats.regions import BACKGROUND, check_near
from zoo.data.walk import files_by_stem
from zoo.errors import DatasetError
from zoo.images import READ_ERRORS, upright_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.data.source import Split

    Polygons = list[list[float]] | dict[str, Any]
    Size = tuple[int, int]

SPLITS: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val"}
"""Splits by the names of their folders."""
UNUSED = "test"
BACKGROUNDS = (BACKGROUND, "_background_")
IGNORED = ("__ignore__", "ignore")
"""Names of regions that are ignored."""


class Found(NamedTuple):
    """Images with their regions, and the class names, the background first."""

    files: dict[Split, dict[str, Pair]]
    names: tuple[str, ...]


class Shape(NamedTuple):
    """A region and the name of its class."""

    name: str
    region: Polygons


class Entry(NamedTuple):
    """An image with its annotation file, None for an unlabeled image."""

    split: Split
    stem: str
    image: Path
    path: Path | None
    shapes: list[Shape]
    size: Size | None = None
    """Width and height according to the file; None if it does not say."""


def images_of(folder: Path) -> dict[str, Path]:
    """Return the images in a folder tree by their relative path without suffix."""
    return files_by_stem(folder, IMAGE_SUFFIXES)


def size_of(path: Path) -> Size:
    """Return width and height of an upright image; of a broken one 1 x 1."""
    try:
        with Image.open(path) as image:
            return upright_size(image)
    except READ_ERRORS:
        return 1, 1


def text_of(path: Path) -> str:
    """Return the text of a file.

    Raises:
        DatasetError: the file is not in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path}: got a file in another encoding ({error}), expected text in UTF-8: save it as UTF-8"
        ) from error


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None


def build(entries: Iterable[Entry], names: Sequence[str]) -> Found:
    """Return images with drawings of their shapes.

    Args:
        entries: images with their shapes.
        names: class names, with or without a background.
    """
    known = (BACKGROUND, *(name for name in names if name.lower() not in BACKGROUNDS))
    label_of = dict.fromkeys((*names, *BACKGROUNDS), 0)
    label_of |= {name: label for label, name in enumerate(known)} | dict.fromkeys(IGNORED, IGNORE)
    files: dict[Split, dict[str, Pair]] = {"train": {}, "val": {}, "unlabeled": {}}
    for split, stem, image, path, shapes, size in entries:
        if path is None:
            add_pair(files["unlabeled"], f"unlabeled/{stem}", Pair(image, None))
            continue
        unknown = next((shape.name for shape in shapes if shape.name not in label_of), None)
        if unknown is not None:
            raise DatasetError(
                f"{path}: got a region of the class {unknown}, expected one of {', '.join(names)}: export "
                f"all files again together"
            )
        regions = tuple(Region(shape.region, label_of[shape.name]) for shape in shapes)
        width, height = size or size_of(image)
        drawing = ImageRegions(str(path), height, width, regions, "file")
        add_pair(files[split], f"{split}/{stem}", Pair(image, path, drawing))
    return Found(files, known)


def content_of(path: Path, what: str) -> dict[str, Any]:
    """Return the object in a JSON or YAML file.

    Raises:
        DatasetError: the file cannot be read.
    """
    try:
        text = text_of(path)
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        if isinstance(content, dict):
            return content
        reason = "no object"
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
    raise DatasetError(f"{path}: got a file that cannot be read ({reason}), expected {what}: export it again")


def stems_in(path: Path) -> list[str]:
    """Return the paths without suffix of the images that a COCO file lists, with or without annotations.

    Raises:
        DatasetError: the file cannot be read.
    """
    what = "COCO annotations with images"
    try:
        return [stem_of(image["file_name"]) for image in content_of(path, what)["images"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: got no list of images, expected {what}: export it again") from error


def read_yolo(root: Path) -> Found | None:
    """Return a data set of YOLO's polygons; None if the folder has another layout."""
    nested = [(folder, root / "labels" / folder.name) for folder in sorted(root.glob("images/*/"))]
    nested += [(folder, folder.parent / "labels") for folder in sorted(root.glob("*/images/"))]
    folders = [
        (SPLITS[name], images, labels)
        for images, labels in nested
        if (name := images.name if images.name in SPLITS else images.parent.name) in SPLITS
        and any(labels.rglob("*.txt"))
    ]
    if not folders:
        return None
    check_can_draw(folders[0][2])
    names = _yolo_names(root, [labels for _, _, labels in folders])
    entries = (
        Entry(split, stem, image, path, list(_yolo_shapes(path, image, names)) if path else [])
        for split, images, labels in folders
        for stem, image in images_of(images).items()
        for path in [_if_file(labels / f"{stem}.txt")]
    )
    return build(entries, names)


def _yolo_names(root: Path, folders: list[Path]) -> list[str]:
    """Return the class names of `data.yaml`, or else numbers as far as the labels need them."""
    for name in ("data.yaml", "dataset.yaml"):
        if (root / name).is_file():
            names = content_of(root / name, "names as in YOLO's data.yaml").get("names", [])
            return _listed_names(names, root / name)
    texts = (text_of(path) for folder in folders for path in folder.rglob("*.txt"))
    first = (line.split()[0] for text in texts for line in text.splitlines() if line.strip())
    highest = max((int(word) for word in first if word.isdecimal()), default=0)
    return [f"class_{number}" for number in range(1 + highest)]


def _listed_names(names: Any, path: Path) -> list[str]:
    """Return the class names of a list, or of a table by number.

    Raises:
        DatasetError: neither of them, or numbers that leave some out.
    """
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not names or not isinstance(names, list) or len(set(map(str, names))) < len(names):
        raise DatasetError(
            f"{path}: got names: {str(names)[:60]}, expected a list of different names, or a table of all "
            f"numbers from 0: correct it"
        )
    return [str(one) for one in names]


def _yolo_shapes(path: Path, image: Path, names: list[str]) -> Iterator[Shape]:
    size = size_of(image)
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            index, values = int(words[0]), np.array(words[1:], float)
        except ValueError:
            index, values = -1, np.zeros(0)
        if not 0 <= index < len(names):
            raise DatasetError(
                f"{path}:{number}: got {line[:40]!r}, expected a class 0..{len(names) - 1} and a polygon "
                f"x y x y ...: correct it, or the names in data.yaml"
            )
        if len(values) < 6 or len(values) % 2:
            raise DatasetError(
                f"{path}:{number}: got {len(values)} numbers after the class, expected a polygon x y x y "
                f"..., not a box: export polygons, as for YOLO's segmentation"
            )
        yield Shape(names[index], [(values.reshape(-1, 2) * size).ravel().tolist()])


def size_in(found: dict[str, Any], *keys: str) -> Size | None:
    """Return the width and the height that a file gives for its image, None if it does not."""
    width, height = map(found.get, keys)
    if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0:
        return width, height
    return None


def read_supervisely(root: Path) -> Found | None:
    """Return a project of Supervisely; None if the folder has another layout."""
    folders = [
        folder.parent
        for folder in sorted(root.glob("*/ann/"))
        if (folder.parent / "img").is_dir() and folder.parent.name != UNUSED
    ]
    if not (root / "meta.json").is_file() or not folders:
        return None
    check_can_draw(root / "meta.json")
    classes = content_of(root / "meta.json", "Supervisely's classes").get("classes", [])
    splits = {folder: SPLITS.get(folder.name, "train") for folder in folders}
    of_several = {split for split, count in Counter(splits.values()).items() if count > 1}
    entries = (
        Entry(
            splits[folder],
            f"{folder.name}/{stem}" if splits[folder] in of_several else stem,  # names restart in each folder
            image,
            path,
            *_supervisely_shapes(path, image),
        )
        for folder in folders
        for stem, image in images_of(folder / "img").items()
        for path in [_if_file(folder / "ann" / f"{image.name}.json")]
    )
    return build(entries, [str(one["title"]) for one in classes])


def _supervisely_shapes(path: Path | None, image: Path) -> tuple[list[Shape], Size | None]:
    """Return the objects of an image, polygons with holes or bitmaps, and its size according to the file."""
    from pycocotools.mask import encode

    if path is None:
        return [], None
    content, shapes = content_of(path, "Supervisely's objects"), []
    size = size_in(content.get("size") or {}, "width", "height") or size_of(image)
    for one in content.get("objects", []):
        name, kind = str(one.get("classTitle")), one.get("geometryType")
        try:
            region = _SUPERVISELY[kind](one, size)
        except (KeyError, ValueError, TypeError, zlib.error, *READ_ERRORS) as error:
            raise DatasetError(
                f"{path}: got an object {name} of type {kind} that cannot be drawn ({error}), expected a "
                f"polygon or bitmap: export it again"
            ) from error
        shapes.append(Shape(name, encode(np.asfortranarray(region))))
    return shapes, size


def _filled(one: dict[str, Any], size: Size) -> NDArray[np.uint8]:
    """Return the pixels of a polygon with holes."""
    from pycocotools.mask import decode, frPyObjects, merge

    width, height = size
    rings = (one["points"]["exterior"], *one["points"]["interior"])
    check_near([np.ravel(ring).astype(float) for ring in rings])
    outer, *holes = (
        decode(merge(frPyObjects([np.ravel(ring).astype(float).tolist()], height, width))) for ring in rings
    )
    for hole in holes:
        outer[hole > 0] = 0
    return np.asarray(outer, np.uint8)


def _unpacked(one: dict[str, Any], size: Size) -> NDArray[np.uint8]:
    """Return the pixels of a bitmap."""
    left, top = one["bitmap"]["origin"]
    return pasted(zlib.decompress(base64.b64decode(one["bitmap"]["data"])), left, top, size)


def pasted(file: bytes, left: int, top: int, size: Size) -> NDArray[np.uint8]:
    """Return the pixels of an image that are those of a region in a picture file, (H, W), 0 or 1.

    Args:
        file: content of the file, whose region is what is opaque, or above 0 where nothing is transparent.
        left: column of its first pixel, which may be outside.
        top: row of its first pixel.
        size: width and height of the image.
    """
    width, height = size
    region = np.zeros((height, width), np.uint8)
    with Image.open(io.BytesIO(file)) as picture:
        is_transparent = "A" in picture.mode or "transparency" in picture.info
        gray = picture.convert("RGBA").getchannel("A") if is_transparent else picture.convert("L")
        bits = np.asarray(gray) > 0
    bits = bits[max(0, -top) :, max(0, -left) :]
    top, left = max(0, top), max(0, left)
    part = region[top : top + bits.shape[0], left : left + bits.shape[1]]
    part[bits[: part.shape[0], : part.shape[1]]] = 1
    return region


_SUPERVISELY: dict[str | None, Callable[[dict[str, Any], Size], NDArray[np.uint8]]] = {
    "polygon": _filled,
    "bitmap": _unpacked,
}
