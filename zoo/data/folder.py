"""Plain folder of images and masks; a `data.toml` describes other folder names and mask values.

- `train/images`, `train/masks`: one mask for each image, with the same name apart from the suffix;
- `val/images`, `val/masks`: validation images and masks, in the same form;
- `train/annotations.json`, `val/annotations.json` instead of the masks: COCO instance annotations;
- `unlabeled/`, optional: images alone, directly or in `unlabeled/images`;
- `data.toml`, optional: description of the folder (`zoo.data.data_file`).
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data.cache.memo import Memo
from zoo.data.data_file import (
    DATA_FILE,
    DataFile,
    build_classes,
    class_names,
    image_format,
    label_map,
    read_data_file,
)
from zoo.data.files import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    FileSource,
    Pair,
    digest_of,
    image_suffixes,
    paths_of,
)
from zoo.data.formats.coco import ANNOTATIONS, read_annotations
from zoo.data.formats.layouts import Recognized, recognize
from zoo.data.formats.palettes import find_palettes, read_indexed
from zoo.data.formats.per_label import read_per_label
from zoo.data.inspect.findings import UNKNOWN_CLASSES, message
from zoo.data.inspect.interpretation import find_meaning
from zoo.data.inspect.judge import judge_mask, judge_together, with_example
from zoo.data.labels import LabelMap
from zoo.data.lists import hold_out
from zoo.data.masks import read_mask
from zoo.data.names import alike, match_masks, near
from zoo.data.walk import by_stem, walk
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from zoo.classes import Classes
    from zoo.data.formats.coco import Annotations
    from zoo.data.inspect.meaning import Interpretation
    from zoo.data.labels import Palettes
    from zoo.data.masks import NamedMask
    from zoo.data.source import Split
    from zoo.image_format import ImageFormat

ANNOTATION_SUFFIXES = frozenset({".json", ".txt", ".csv", ".xml", ".yaml", ".toml", ".md"})
"""Suffixes of files that tools write beside images."""
PER_LABEL = "one mask for each label"
MOST_SHOWN = 6
"""Number of masks that an error lists."""
MASKED: tuple[Split, ...] = ("train", "val")


class FolderSource(FileSource):
    """Images and masks of a plain folder.

    Args:
        spec: path of the folder or of a `data.toml`.

    Raises:
        DatasetError: a missing folder, an invalid `data.toml`, an image without mask, or two files of one id.
    """

    def __init__(self, spec: str) -> None:
        root, data, toml = describe_folder(spec)
        self.root, self.toml, listing = root, toml, _Listing(image_format(data, toml))
        self.skipped = listing.skipped
        """What was skipped in each folder, in words."""
        check_named_folders(data, root, toml)
        recognized = recognized_in(root, data)
        self.tool = None if recognized is None else recognized.tool
        """Name of another tool's layout."""
        unlabeled = _images("unlabeled", inner(root / data.unlabeled), listing)
        if recognized is not None:
            data, drawn_names = recognized.data, recognized.names
            listing.skip_beside(root, recognized)
            if drawn_names is not None:
                _check_maps_nothing(data, toml, drawn_names)
            files = recognized.files | {"unlabeled": recognized.files["unlabeled"] | unlabeled}
        else:
            annotations = _annotations(data, root, toml)
            drawn_names = next(iter(annotations.values())).names if annotations else None
            files = {
                "train": _pairs("train", root / data.train, annotations.get("train"), listing),
                "unlabeled": unlabeled,
                "val": _pairs("val", root / data.val, annotations.get("val"), listing),
            }
        self.data = data
        if data.val_list is not None:
            files |= hold_out(toml.parent / data.val_list, files["train"], files["val"])
        if not files["train"] and not files["val"]:
            raise DatasetError(
                f"{root}: got no images in {data.train}/images or {data.val}/images, expected a folder with "
                f"train/images, train/masks, val/images and val/masks, or an export of VOC, CVAT, Roboflow, "
                f"YOLO, LabelMe, Supervisely or mmseg: move the files there, or name their folders in "
                f"{DATA_FILE}"
            )
        paths = {*listing.paths, *paths_of(pair for pairs in files.values() for pair in pairs.values())}
        memo = Memo(spec, f"{data.model_dump_json()} {drawn_names} {digest_of(files)}", sorted(paths))
        classes, labels, palettes = (
            _meaning(self, spec, files, memo)
            if drawn_names is None
            else (build_classes(data, toml, drawn_names), None, "index")
        )
        super().__init__(spec, classes, files, labels, palettes, memo, listing.format)


def describe_folder(spec: str) -> tuple[Path, DataFile, Path]:
    """Return the root folder of a spec, its description, and the path of `data.toml`, which may not exist.

    Raises:
        DatasetError: an invalid `data.toml`.
    """
    path = Path(spec)
    folder, toml = (path, path / DATA_FILE) if path.is_dir() else (path.parent, path)
    data = read_data_file(toml) if not path.is_dir() or toml.is_file() else DataFile()
    return folder / data.root, data, toml


def check_named_folders(data: DataFile, root: Path, toml: Path) -> None:
    """Raise if a folder that `data.toml` names does not exist; default folders may be missing.

    Raises:
        DatasetError: a named folder does not exist.
    """
    for key in ("root", "train", "val", "unlabeled"):
        folder = root if key == "root" else root / getattr(data, key)
        if key in data.model_fields_set and not folder.is_dir():
            raise DatasetError(
                f"{toml}: got {key} = {getattr(data, key)!r}, expected an existing folder, "
                f"there is no {folder}: correct the key"
            )


def recognized_in(root: Path, data: DataFile) -> Recognized | None:
    """Return the data set of another tool in a folder; None if it has the layout of `zoo`, or none.

    Raises:
        DatasetError: annotations that cannot be used.
    """
    folders = root / data.train, root / data.val
    is_plain = any(
        (folder / "images").is_dir() and ((folder / "masks").is_dir() or not (folder / "labels").is_dir())
        for folder in folders
    )
    if is_plain:
        splits: dict[Split, Path] = {"train": root / data.train, "val": root / data.val}
        found = read_per_label({split: folder for split, folder in splits.items() if folder.is_dir()})
        return None if found is None else Recognized(PER_LABEL, found.files, data, found.names)
    return None if {"train", "val"} & data.model_fields_set else recognize(root, data)


def inner(folder: Path) -> Path:
    """Return the folder of the `unlabeled` images: its subfolder `images` if that exists, or itself."""
    return folder / "images" if (folder / "images").is_dir() else folder


class _Listing:
    """All files that were found in the folders of a data set, and what was skipped there, in words."""

    def __init__(self, format_: ImageFormat) -> None:
        self.format = format_
        """Declared format of the images."""
        self.paths: list[str] = []
        self.skipped: dict[Path, str] = {}

    def files(self, folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
        """Return the files in a folder tree by their relative path without suffix, sorted."""
        tree = walk(folder, suffixes)
        self.paths += [str(path) for paths in tree for path in paths]
        if words := tree.skipped():
            self.skipped[folder] = words
        found = by_stem(folder, tree.files)
        for stem, (first, *others) in found.items():
            if others:
                raise DatasetError(
                    f"{others[0]}: got a second file named {stem} beside {first.name}, expected one: "
                    f"rename or remove one of them"
                )
        return {stem: paths[0] for stem, paths in found.items()}

    def skip_beside(self, root: Path, recognized: Recognized) -> None:
        """Note what the layout of another tool leaves out."""
        if recognized.tool == PER_LABEL:
            return
        pairs = [pair for found in recognized.files.values() for pair in found.values()]
        used = {Path(path) for path in paths_of([*pairs, *(pair for _, pair in recognized.left)])}
        tree = walk(root, IMAGE_SUFFIXES | ANNOTATION_SUFFIXES)
        left = [path for path in tree.files if path.suffix.lower() in IMAGE_SUFFIXES and path not in used]
        inner = Counter(f"{path.relative_to(root).parts[0]}/" for path in left)
        inner.update(name for name, _ in recognized.left)
        reasons = [tree.skipped(), *(f"{count} images of {name}" for name, count in inner.items())]
        if words := ", ".join(filter(None, reasons)):
            self.skipped[root] = words


def _images(split: Split, folder: Path, listing: _Listing) -> dict[str, Pair]:
    images = listing.files(folder, image_suffixes(listing.format))
    return {f"{split}/{stem}": Pair(path, None) for stem, path in images.items()}


def _pairs(split: Split, folder: Path, annotations: Annotations | None, listing: _Listing) -> dict[str, Pair]:
    images = listing.files(folder / "images", image_suffixes(listing.format))
    if annotations is not None:
        return _drawn_pairs(split, folder, annotations, images)
    masks = listing.files(folder / "masks", MASK_SUFFIXES)
    pairs: dict[str, Pair] = {}
    found = match_masks(images, masks)
    for stem, image in images.items():
        if stem not in found:
            others = near(stem, alike(masks.keys() - set(found.values())))
            raise _no_mask(image, stem, folder / "masks", split, [masks[other].name for other in others])
        pairs[f"{split}/{stem}"] = Pair(image, masks[found[stem]])
    return pairs


def _drawn_pairs(
    split: Split, folder: Path, annotations: Annotations, images: Mapping[str, Path]
) -> dict[str, Pair]:
    pairs: dict[str, Pair] = {}
    found, unclear = annotations.match(images)
    for stem, image in images.items():
        drawing = found.get(stem)
        if stem in unclear:
            raise DatasetError(
                f"{image}: got {unclear[stem]} in {folder / ANNOTATIONS}, expected one: write its whole path "
                f"into file_name, or rename the images"
            )
        if drawing is None:
            raise DatasetError(
                f"{image}: got no image of this name in {folder / ANNOTATIONS}, expected each image listed: "
                f"export the annotations again, or move the image to unlabeled/"
            )
        pairs[f"{split}/{stem}"] = Pair(image, folder / ANNOTATIONS, drawing)
    return pairs


def _annotations(data: DataFile, root: Path, toml: Path) -> dict[Split, Annotations]:
    """Return the COCO annotations of `train` and `val`; empty if the masks are files.

    Raises:
        DatasetError: only one split has annotations, their classes differ, or `data.toml` maps labels.
    """
    folders: dict[Split, Path] = {"train": root / data.train, "val": root / data.val}
    paths = {
        split: folder / ANNOTATIONS
        for split, folder in folders.items()
        if (folder / ANNOTATIONS).is_file() and not (folder / "masks").is_dir()
    }
    found = {split: read_annotations(path, data.coco, *paths.values()) for split, path in paths.items()}
    if not found:
        return {}
    split, first = next(iter(found.items()))
    for other, folder in folders.items():
        if other not in found and (folder / "images").is_dir():
            raise DatasetError(
                f"{folder}: got no {ANNOTATIONS}, expected it as in {folders[split]}: add it, or save masks "
                f"for both"
            )
        if other in found and found[other].names != first.names:
            raise DatasetError(
                f"{folder / ANNOTATIONS}: got the classes {', '.join(found[other].names)}, expected "
                f"{', '.join(first.names)} as in {folders[split]}: export both with the same categories"
            )
    _check_maps_nothing(data, toml, first.names)
    return found


def _check_maps_nothing(data: DataFile, toml: Path, names: tuple[str, ...]) -> None:
    """Raise if a `data.toml` defines classes that COCO annotations define by their categories."""
    for key in ("labels", "colors", "ignore", "unknown"):
        if key in data.model_fields_set:
            raise DatasetError(
                f"{toml}: got {key} beside annotations, expected it for mask files alone: remove the key"
            )
    if data.names is not None and tuple(data.names) != names:
        raise DatasetError(
            f"{toml}: got names = {data.names}, expected {list(names)}, the categories of the annotations: "
            f"remove the key"
        )


def _no_mask(image: Path, stem: str, folder: Path, split: Split, others: list[str]) -> DatasetError:
    path = folder / stem
    for other in sorted(path.parent.iterdir()) if path.parent.is_dir() else ():
        suffix = other.suffix.lower()
        if other.stem == path.name and suffix not in MASK_SUFFIXES and other.is_file():
            fault, remedy = "is not read", "save it as an 8-bit index PNG"
            if suffix in IMAGE_SUFFIXES:
                fault, remedy = "changes its values", f"{remedy} from the original labels"
            return DatasetError(
                f"{other}: got a mask in a format that {fault}, expected {', '.join(MASK_SUFFIXES)}: {remedy}"
            )
    if not folder.is_dir():
        for other in sorted(path for path in folder.parent.iterdir() if path.is_dir()):
            if other.name != "images" and any((other / f"{stem}{end}").is_file() for end in MASK_SUFFIXES):
                return DatasetError(
                    f"{folder}: got no such folder, but {other.name} with masks, expected {folder.name}: "
                    f"rename it"
                )
    if others:
        return DatasetError(
            f"{image}: got no mask {stem}.png in {folder} but {', '.join(others[:MOST_SHOWN])}"
            f"{', ...' * (len(others) > MOST_SHOWN)}, expected one for each image: rename it as its image"
        )
    instead = "move the image to unlabeled/" if split == "train" else "remove the image"
    return DatasetError(
        f"{image}: got no mask {stem}.png in {folder}, expected one for each image: draw it, or {instead}"
    )


def _meaning(
    source: FolderSource, spec: str, files: Mapping[Split, Mapping[str, Pair]], memo: Memo
) -> tuple[Classes, LabelMap | None, Palettes]:
    """Return the classes of mask files, and the label map and palettes by which they are read.

    Raises:
        DatasetError: an invalid `data.toml`, or masks that need one.
    """
    data, toml = source.data, source.toml
    labels = label_map(data, toml)
    if (known := memo["reading"]) is not None:
        return build_classes(data, toml, tuple(known["names"])), labels, _palettes(known["palettes"])
    classes, palettes = _read_meaning(spec, data, toml, files, labels)
    stored = palettes if isinstance(palettes, str) else asdict(palettes)
    memo["reading"] = {"names": classes.names, "palettes": stored}
    return classes, labels, palettes


def _palettes(stored: Any) -> Palettes:
    """Return the reading of palettes that a memo stored."""
    if isinstance(stored, dict):
        return LabelMap(**stored | {"codes": tuple(map(tuple, stored["codes"]))})
    return "gray" if stored == "gray" else "index"


def _read_meaning(
    spec: str,
    data: DataFile,
    toml: Path,
    files: Mapping[Split, Mapping[str, Pair]],
    labels: LabelMap | None,
) -> tuple[Classes, Palettes]:
    """Return the classes of mask files and the reading of their palettes, after a look at the masks."""
    names = class_names(data, toml)
    pairs = [(split, pair) for split in MASKED for pair in files[split].values()]
    if names is None:
        with ThreadPoolExecutor() as pool:
            meaning = _shown_meaning(spec, data, toml, list(pool.map(read_mask, *zip(*pairs, strict=True))))
        return meaning.classes, meaning.palettes
    palettes: Palettes = "index"
    if labels is None or labels.kind != "color":
        masks = read_indexed([pair.mask for _, pair in pairs if pair.mask])
        palettes, conflict = find_palettes(masks, data)
        if conflict is not None:
            raise DatasetError(message(conflict, spec))
    return build_classes(data, toml, names), palettes


def _shown_meaning(spec: str, data: DataFile, toml: Path, masks: Sequence[NamedMask]) -> Interpretation:
    """Return the interpretation of masks whose classes `data.toml` does not name.

    Raises:
        DatasetError: their classes cannot be determined.
    """
    meaning = find_meaning(data, toml, masks)
    findings = [one for mask in masks for one in judge_mask(mask.name, mask.facts, meaning, data)]
    for finding in (*findings, *meaning.findings, *judge_together(masks, meaning)):
        if finding.kind in UNKNOWN_CLASSES:
            finding = with_example(finding, masks, meaning)
            raise DatasetError(message(finding, spec, has_proposal=meaning.proposal is not None))
    return meaning
