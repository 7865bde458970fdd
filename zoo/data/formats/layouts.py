"""Folders of annotation tools and of other libraries, recognized by their layout.

| layout | files |
|---|---|
| VOC, CVAT masks | `JPEGImages/`, `SegmentationClass/`; lists in `ImageSets/Segmentation/`; `labelmap.txt` |
| Roboflow masks | `train/NAME.jpg` with `NAME_mask.png`, `train/_classes.csv`; `valid/` |
| COCO of Roboflow | `train/NAME.jpg`, `train/_annotations.coco.json`; `valid/` |
| COCO of Label Studio, CVAT | `images/`, `result.json` or `annotations/instances_NAME.json` |
| YOLO | `images/train/`, `labels/train/NAME.txt` or `train/images/`, `train/labels/`; `data.yaml` |
| LabelMe | `NAME.json` beside `NAME.jpg`, in the folder or in `train/` and `val/` |
| Supervisely | `meta.json`, `DATASET/img/NAME.jpg`, `DATASET/ann/NAME.jpg.json` |
| mmseg and others | `img_dir/train/`, `ann_dir/train/`; likewise `images/` and `masks/` or `annotations/` |
| Cityscapes | `leftImg8bit/train/`, `gtFine/train/` |
| flat | `images/`, `masks/` without splits |

Images without annotations are unlabeled. Folders `test/`, and the images of annotations or lists named as
those of a test, are not used.
"""

from __future__ import annotations

import csv
import logging
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from zoo.data.files import IMAGE_SUFFIXES, MASK_SUFFIXES, Pair, add_pair
from zoo.data.formats.coco import Annotations, read_annotations
from zoo.data.formats.drawing import ImageRegions
from zoo.data.formats.labelme import read_labelme
from zoo.data.formats.tools import SPLITS, images_of, read_supervisely, read_yolo, stems_in, text_of
from zoo.data.names import ENDING, OF_TEST, is_in_test, match_masks
from zoo.data.walk import files_by_stem
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from zoo.data.data_file import DataFile
    from zoo.data.formats.tools import Found
    from zoo.data.source import Split

    Files = dict[Split, dict[str, Pair]]

log = logging.getLogger(__name__)

TREES = (
    ("mmseg", "img_dir", "ann_dir"),
    ("Cityscapes", "leftImg8bit", "gtFine"),
    ("images and masks", "images", "masks"),
    ("images and masks", "images", "annotations"),
    ("images and masks", "images", "labels"),
    ("images and masks", "imgs", "masks"),
)
"""Names of layouts, and their folders of images and of masks, each divided into splits or not."""
ENDINGS = (
    ("_leftImg8bit", "_gtFine_labelIds"),
    ("_leftImg8bit", "_gtFine_labelTrainIds"),
    ("", "_labelTrainIds"),
)
"""Endings of an image and its mask."""
CLASSES, LABEL_MAP = "_classes.csv", "labelmap.txt"
COCO_NAME, RESULT = "_annotations.coco.json", "result.json"
READERS: dict[str, Callable[[Path], Found | None]] = {
    "YOLO polygons": read_yolo,
    "Supervisely": read_supervisely,
    "LabelMe": read_labelme,
}
"""Readers of drawn masks by the name of the tool."""


class Recognized(NamedTuple):
    """A data set in the layout of a tool."""

    tool: str
    files: Files
    data: DataFile
    """Description of the data set, with the classes that the files of the tool give."""
    names: tuple[str, ...] | None = None
    """Class names of drawn masks, the background first."""
    left: tuple[tuple[str, Pair], ...] = ()
    """Images of a test, which are not used, each with the name of the file that lists it."""


def recognize(root: Path, data: DataFile) -> Recognized | None:
    """Return the data set in a folder of a known layout, or None.

    Args:
        root: folder of the data set.
        data: contents of its `data.toml`.

    Raises:
        DatasetError: annotations that cannot be used.
    """
    for reader in (_voc, _roboflow_masks, _coco, _of_tool, _trees) if root.is_dir() else ():
        found = reader(root, data)
        if found is not None and any(found.files.values()):
            return found
    return None


def _photos(folder: Path) -> dict[str, Path]:
    """Return the images in a folder tree, without masks beside them."""
    found = images_of(folder)
    return {
        stem: path
        for stem, path in found.items()
        if not (stem.endswith(ENDING) and stem.removesuffix(ENDING) in found)
    }


def _paired(split: Split, images: dict[str, Path], masks: dict[str, Path]) -> Files:
    """Return images with masks as a split, and those without as unlabeled."""
    found = match_masks(images, masks)
    for stem in images.keys() - found.keys():
        names = (stem.removesuffix(image) + mask for image, mask in ENDINGS if stem.endswith(image))
        name = next((name for name in names if name in masks), None)
        if name is not None:
            found[stem] = name
    labeled = {f"{split}/{stem}": Pair(images[stem], masks[found[stem]]) for stem in images if stem in found}
    rest = {f"unlabeled/{stem}": Pair(path, None) for stem, path in images.items() if stem not in found}
    return {split: labeled, "unlabeled": rest}


def _joined(parts: Iterable[Files]) -> Files:
    """Return the files of several folders together.

    Raises:
        DatasetError: two images of one id.
    """
    files: Files = {"train": {}, "val": {}, "unlabeled": {}}
    for split, pairs in chain.from_iterable(part.items() for part in parts):
        for id_, pair in pairs.items():
            add_pair(files[split], id_, pair)
    return files


def _with_classes(data: DataFile, **classes: object) -> DataFile:
    """Return a description with classes unless it has some."""
    is_given = {"names", "labels", "colors"} & data.model_fields_set
    return data if is_given else data.model_copy(update=classes)


def _voc(root: Path, data: DataFile) -> Recognized | None:
    """Return a data set in the layout of PASCAL VOC, as CVAT's export "Segmentation mask" has it."""
    folders = root / "JPEGImages", root / "SegmentationClass"
    if not all(folder.is_dir() for folder in folders):
        return None
    images, masks = images_of(folders[0]), files_by_stem(folders[1], MASK_SUFFIXES)
    found = sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))
    lists = {path.stem: _list_of_voc(path, images) for path in found}
    tests = {stem: f"{name}.txt" for name in lists if OF_TEST.search(name) for stem in lists[name]}
    pairs = {stem: Pair(path, masks.get(stem)) for stem, path in images.items() if stem in tests}
    left = tuple((tests[stem], pair) for stem, pair in pairs.items())
    images = {stem: path for stem, path in images.items() if stem not in tests}
    lists = {name: stems for name, stems in lists.items() if not OF_TEST.search(name)}
    val = lists.get("val", set())
    train = (lists.get("train") or set().union(*lists.values()) or set(images)) - val
    chosen = {split: {stem: path for stem, path in images.items() if stem in names}
              for split, names in (("train", train), ("val", val))}  # fmt: skip
    rest = {stem: path for stem, path in images.items() if stem not in train | val}
    files = _joined(
        [
            _paired("train", chosen["train"], masks),
            _paired("val", chosen["val"], masks),
            _paired("train", rest, {}),
        ]
    )
    path = root / LABEL_MAP
    if not path.is_file():
        return Recognized("PASCAL VOC", files, data, left=left)
    return Recognized("CVAT masks", files, _with_classes(data, colors=_label_map(path)), left=left)


def _list_of_voc(path: Path, images: Collection[str]) -> set[str]:
    """Return the images in a list: names that may hold spaces, or names with a flag, path or suffix."""
    lines = [line.strip() for line in text_of(path).splitlines() if line.strip()]
    found = {line: _named_in(line, images) for line in lines}
    if missing := [line for line, stem in found.items() if stem is None]:
        log.warning(
            "%s: %d of %d lines name no image, such as %s", path, len(missing), len(lines), missing[0]
        )
    return {stem for stem in found.values() if stem is not None}


def _named_in(line: str, images: Collection[str]) -> str | None:
    """Return the image that a line names, None if it names none."""
    for text in (line, line.split()[0]):
        place = PurePosixPath(text.replace("\\", "/").lstrip("/"))
        stem = place.with_suffix("") if place.suffix.lower() in IMAGE_SUFFIXES else place
        ends = ("/".join(stem.parts[begin:]) for begin in range(len(stem.parts)))
        if (name := next((end for end in ends if end in images), None)) is not None:
            return name
    return None


def _label_map(path: Path) -> dict[str, list[int]]:
    """Return the colors in a `labelmap.txt` of CVAT by class."""
    lines = [line.split(":") for line in text_of(path).splitlines()]
    try:
        return {
            name: [int(part) for part in color.split(",")]
            for name, color, *_ in (line for line in lines if line[0] and not line[0].startswith("#"))
        }
    except ValueError as error:
        raise DatasetError(
            f"{path}: got a line that cannot be read ({error}), expected label:r,g,b:parts:actions as CVAT "
            f"writes it: export it again"
        ) from error


def _split_folders(root: Path, name: str) -> list[tuple[Split, Path]]:
    """Return the folders of splits that hold a file."""
    return [(split, root / folder) for folder, split in SPLITS.items() if (root / folder / name).is_file()]


def _roboflow_masks(root: Path, data: DataFile) -> Recognized | None:
    """Return Roboflow's export "Semantic segmentation masks"."""
    folders = _split_folders(root, CLASSES)
    if not folders:
        return None
    files = _joined(
        _paired(split, _photos(folder), files_by_stem(folder, MASK_SUFFIXES)) for split, folder in folders
    )
    lines = text_of(folders[0][1] / CLASSES).splitlines()
    rows = [row for row in csv.reader(lines, skipinitialspace=True) if len(row) == 2]
    labels = {value.strip(): name.strip() for value, name in rows if value.strip().isdecimal()}
    return Recognized("Roboflow masks", files, _with_classes(data, labels=labels))


def _coco(root: Path, data: DataFile) -> Recognized | None:
    """Return an export of COCO annotations by Roboflow, Label Studio or CVAT."""
    folders = [(split, folder / COCO_NAME, folder) for split, folder in _split_folders(root, COCO_NAME)]
    tests: dict[Path, str] = {}
    if not folders and (root / "images").is_dir():
        whole = [root / RESULT, *sorted((root / "annotations").glob("instances_*.json"))]
        for path in filter(Path.is_file, whole):
            if OF_TEST.search(path.stem):
                tests |= dict.fromkeys(_listed_in(path, root / "images"), path.name)
            else:
                folders.append((_split_in(path.stem), path, root / "images"))
    if not folders:
        return None
    paths = [path for _, path, _ in folders]
    parts: list[Files] = []
    names: tuple[str, ...] = ()
    for split, path, folder in folders:
        annotations, images = read_annotations(path, data.coco, *paths), images_of(folder)
        if names and annotations.names != names:
            raise DatasetError(
                f"{path}: got the classes {', '.join(annotations.names)}, expected {', '.join(names)} as in "
                f"{paths[0]}: export both with the same categories"
            )
        names, (found, unclear) = annotations.names, annotations.match(images)
        _check_clear(path, images, unclear)
        drawn = {
            f"{split}/{stem}": Pair(images[stem], path, drawing)
            for stem, drawing in found.items()
            if images[stem] not in tests
        }
        parts.append({split: drawn})
    files = _joined(parts)
    used = tests.keys() | {pair.image for pairs in files.values() for pair in pairs.values()}
    every = chain.from_iterable(images_of(folder).items() for folder in {folder for _, _, folder in folders})
    rest = {stem: path for stem, path in every if path not in used}
    tests |= {path: f"{stem.rpartition('/')[0]}/" for stem, path in rest.items() if is_in_test(stem)}
    files["unlabeled"] = {
        f"unlabeled/{stem}": Pair(path, None) for stem, path in rest.items() if path not in tests
    }
    left = tuple((name, Pair(path, None)) for path, name in tests.items())
    return Recognized("COCO annotations", files, data, names, left)


def _listed_in(path: Path, folder: Path) -> list[Path]:
    """Return the images of a folder that a COCO file lists.

    Raises:
        DatasetError: a file that cannot be read, or an image that may be one of several.
    """
    images = images_of(folder)
    listed = Annotations((), dict.fromkeys(stems_in(path), ImageRegions(str(path), 1, 1, ())))
    found, unclear = listed.match(images)
    _check_clear(path, images, unclear)
    return [images[stem] for stem in found]


def _check_clear(path: Path, images: dict[str, Path], unclear: dict[str, str]) -> None:
    for stem, words in unclear.items():
        raise DatasetError(f"{images[stem]}: got {words} in {path}, expected one: rename the images")


def _split_in(name: str) -> Split:
    """Return the split that the name of an annotation file names."""
    return "val" if "val" in name.lower() else "train"


def _of_tool(root: Path, data: DataFile) -> Recognized | None:
    """Return a data set of polygons of YOLO, LabelMe or Supervisely."""
    for tool, reader in READERS.items():
        found = reader(root)
        if found is not None:
            return Recognized(tool, found.files, data, found.names)
    return None


def _trees(root: Path, data: DataFile) -> Recognized | None:
    """Return a data set with a folder of images and one of masks, divided into splits or not."""
    for name, images, masks in TREES:
        above, beside = root / images, root / masks
        if not above.is_dir() or not beside.is_dir():
            continue
        photos_of, masks_of = _folders(above), _folders(beside)
        pairs = [
            (split, photos_of[folder], masks_of.get(folder, beside / folder))
            for folder, split in SPLITS.items()
            if folder in photos_of
        ]
        parts, left = [], []
        for split, photos, labels in pairs or [("train", above, beside)]:
            found, drawn = images_of(photos), files_by_stem(labels, MASK_SUFFIXES)
            tests = {stem: image for stem, image in found.items() if is_in_test(stem)}
            for stem, image in tests.items():
                left.append((f"{images}/{stem.rpartition('/')[0]}/", Pair(image, drawn.get(stem))))
            rest = {stem: image for stem, image in found.items() if stem not in tests}
            parts.append(_paired(split, rest, drawn))
        where = f"{images}/, {masks}/{'' if pairs else ' without splits'}"
        return Recognized(f"{name} ({where})", _joined(parts), data, left=tuple(left))
    return None


def _folders(above: Path) -> dict[str, Path]:
    """Return the folders in a folder by their names in lower case."""
    return {folder.name.lower(): folder for folder in sorted(above.iterdir()) if folder.is_dir()}
