"""Import of annotation files (CVAT, Label Studio, COCO) as training masks of a plain folder.

All masks are drawn and checked before the first one is moved to its place, and a mask before its image: an
interrupted import leaves nothing half-written, and the same command completes it.
"""

from __future__ import annotations

import filecmp
import re
import shutil
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from PIL import Image

from zoo.bundle.bundle import replacing
from zoo.data.data_file import DATA_FILE, class_names, image_format, label_map
from zoo.data.files import MASK_SUFFIXES, image_suffixes, read_image_file, read_mask_file
from zoo.data.folder import FolderSource, describe_folder, inner, recognized_in
from zoo.data.formats.coco import ANNOTATIONS, read_coco
from zoo.data.formats.cvat import read_cvat
from zoo.data.formats.label_studio import read_label_studio
from zoo.data.formats.regions import Labels
from zoo.data.lists import IdFinder, read_list
from zoo.data.names import match_masks
from zoo.data.tags import tags_of_mask
from zoo.data.walk import files_by_stem
from zoo.errors import DatasetError
from zoo.image_format import RGB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from zoo.data.data_file import DataFile
    from zoo.data.formats.regions import Annotated
    from zoo.data.labels import LabelMap
    from zoo.image_format import ImageFormat

UPLOAD = re.compile("^[0-9a-f]{8}-")
"""What Label Studio puts before the names of uploaded images."""
Action = Literal["moved", "copied", "kept"]


class Imported(NamedTuple):
    """An image with an imported mask."""

    source: Path
    """Path of the image before the import."""
    image: Path
    """Path of the image in the data set."""
    mask: Path
    """Path of its mask in the data set."""
    action: Action
    """What is done with the image: it is moved from `unlabeled`, copied, or in `train` already."""
    labels: tuple[int, ...]
    """Classes in its mask."""


class Options(NamedTuple):
    """Options of an import.

    Args:
        images: folder of the annotated images; None if they are in the data set.
        predictions: whether predictions of Label Studio count as annotations.
        overwrite: whether to replace other masks of the same images.
    """

    images: Path | None = None
    predictions: bool = False
    overwrite: bool = False


def import_annotations(path: Path, spec: str, options: Options) -> tuple[tuple[str, ...], list[Imported]]:
    """Return the class names of a data set, and the images to which masks were added.

    Args:
        path: annotation file.
        spec: folder of the data set, or its `data.toml`.
        options: options of the import.

    Raises:
        DatasetError: annotations that do not fit the images or the classes, or an image that is not found.
    """
    target = _Target(spec, options)
    with TemporaryDirectory(prefix=".import-", dir=target.root) as temporary:
        found: list[Imported] = []
        drawn: list[Path] = []
        for annotated in read_annotated(path, Labels(target.names), predictions=options.predictions):
            one = target.place(annotated, path)
            if one.mask in {other.mask for other in found}:
                raise DatasetError(f"{path}: got {one.source} twice, expected each image once: remove one")
            target.check_mask(one, annotated.mask)
            drawn.append(Path(temporary, f"{len(found)}.png"))
            target.write(annotated.mask, drawn[-1])
            found.append(one)
        for one, mask in zip(found, drawn, strict=True):
            one.mask.parent.mkdir(parents=True, exist_ok=True)
            mask.replace(one.mask)
            _bring(one)
    return target.names, found


def read_annotated(path: Path, labels: Labels, *, predictions: bool = False) -> Iterator[Annotated]:
    """Return the images of an annotation file, whose format its content shows.

    Raises:
        DatasetError: a file of another format.
    """
    try:
        with path.open("rb") as file:
            start = file.read(2**10).decode("utf-8-sig", "replace").lstrip()[:1]
    except OSError as error:
        raise DatasetError(
            f"{path}: got no file that can be read ({error.strerror}), expected annotations: check the path"
        ) from error
    if start == "<":
        return read_cvat(path, labels)
    if start == "[":
        return read_label_studio(path, labels, predictions=predictions)
    if start == "{":
        return read_coco(path, labels)
    raise DatasetError(
        f"{path}: got a file of another format, expected XML of CVAT, or JSON of Label Studio or COCO: "
        f"unpack it if it is a .zip, or export it again"
    )


class _Target:
    """The training images of a plain folder, and where their files come from."""

    def __init__(self, spec: str, options: Options) -> None:
        if not Path(spec).exists():
            raise DatasetError(
                f"{spec}: got a path that does not exist, expected the folder of a data set or its "
                f"{DATA_FILE}: correct it, or make the folder with a {DATA_FILE} that names the classes"
            )
        root, data, toml = describe_folder(spec)
        if not root.is_dir():
            raise DatasetError(f"{toml}: got root = {data.root!r}, expected an existing folder: correct it")
        self.root, self.train, self.options, self.toml = root, root / data.train, options, toml
        if (self.train / ANNOTATIONS).is_file() and not (self.train / "masks").is_dir():
            raise DatasetError(
                f"{self.train}: got {ANNOTATIONS}, expected masks in files beside which others can be "
                f"written: merge the annotations in the tool, or save its masks as files"
            )
        found = recognized_in(root, data)
        if found is not None:
            raise DatasetError(
                f"{root}: got {found.tool}, expected {data.train}/images and {data.train}/masks, since "
                f"the first file there would hide the others: import into another folder"
            )
        self.labels: LabelMap | None = label_map(data, toml)
        names = class_names(data, toml)
        if names is None and not (self.train / "images").is_dir():
            raise DatasetError(
                f'{spec}: got a data set without classes, expected names = ["background", ...] in {toml}: '
                f"write it, with the classes of the annotations"
            )
        self.names = FolderSource(spec).classes.names if names is None else names
        self.format = image_format(data, toml)
        self._images = Images(self.train / "images", self.format)
        self._masks = files_by_stem(self.train / "masks", MASK_SUFFIXES)
        self._unlabeled = Images(inner(root / data.unlabeled), self.format)
        self._others = None if options.images is None else Images(options.images, self.format)
        self._val: dict[int, list[Path]] = {}
        """Images of val by the size of their files."""
        for image in _val_images(root, data, toml, self._images):
            self._val.setdefault(image.stat().st_size, []).append(image)

    def place(self, annotated: Annotated, path: Path) -> Imported:
        """Return where an image comes from and where it goes.

        Raises:
            DatasetError: an image that is not found, a copy of one of `val`, or another one of this name in
                `train`.
        """
        image, action = self._find(annotated.name, path)
        shape = read_image_file(image[0], self.format).shape[:2]
        if shape != annotated.mask.shape:
            height, width = annotated.mask.shape
            raise DatasetError(
                f"{path}: got annotations of {width}x{height} pixels for {image[0]}, expected "
                f"{shape[1]}x{shape[0]}: annotate this very image"
            )
        relative = image[0].relative_to(image[1])
        stem = relative.with_suffix("").as_posix()
        there = self._images.by_path.get(stem)
        if there is not None:
            if action != "kept" and not filecmp.cmp(there, image[0], shallow=False):
                raise DatasetError(
                    f"{image[0]}: got another image than {there}, expected different names: rename one"
                )
            relative, action = there.relative_to(self._images.folder), "kept"
        self._check_held_out(image[0], self.train / "images" / relative)
        labels = tags_of_mask(annotated.mask, len(self.names))
        return Imported(
            image[0],
            self.train / "images" / relative,
            self.train / "masks" / f"{stem}.png",
            action,
            tuple(np.flatnonzero(labels).tolist()),
        )

    def _check_held_out(self, image: Path, goal: Path) -> None:
        """Raise if an image is a copy of one of `val`, other than itself where `val` is a list.

        Raises:
            DatasetError: a copy.
        """
        for other in self._val.get(image.stat().st_size, []):
            if other != goal and filecmp.cmp(image, other, shallow=False):
                raise DatasetError(
                    f"{image}: got a copy of {other}, an image of val, expected images that are not in val: "
                    f"leave it out of the annotations, or remove the one of val"
                )

    def _find(self, name: str, path: Path) -> tuple[tuple[Path, Path], Action]:
        """Return the file and the folder of an image, and what is done with it.

        Of several folders, that counts in which the most parts of its path match.
        """
        known = [images for images in (self._unlabeled, self._others, self._images) if images is not None]
        matches = {images.folder: images.find(name, path) for images in known}
        parts = max((match.parts for match in matches.values() if match), default=0)
        best = {folder: match.image for folder, match in matches.items() if match and match.parts == parts}
        unlabeled = best.get(self._unlabeled.folder)
        other = None if self._others is None else best.get(self._others.folder)
        if unlabeled and (other is None or filecmp.cmp(unlabeled, other, shallow=False)):
            return (unlabeled, self._unlabeled.folder), "moved"
        if other is not None and self._others is not None:
            return (other, self._others.folder), "copied"
        there = best.get(self._images.folder)
        if there is None:
            folders = [self._unlabeled.folder, *([self._others.folder] if self._others else [])]
            raise DatasetError(
                f"{path}: got the image {name}, expected it in {' or '.join(map(str, folders))}: name the "
                f"folder of the annotated images with --images"
            )
        return (there, self._images.folder), "kept"

    def check_mask(self, one: Imported, mask: NDArray[np.uint8]) -> None:
        """Raise if an image has another mask already.

        Raises:
            DatasetError: another mask, without `overwrite`, or one of another name or format.
        """
        stem = one.mask.relative_to(self.train / "masks").with_suffix("").as_posix()
        there = self._masks.get(match_masks({stem: one.image}, self._masks).get(stem, ""))
        other = None if there == one.mask else there
        if other is None and (self.options.overwrite or not one.mask.is_file()):
            return
        if other is None and np.array_equal(read_mask_file(one.mask, self.labels), mask):
            return
        raise DatasetError(
            f"{other or one.mask}: got another mask of this image, expected none: "
            + ("remove it" if other else "replace it with --overwrite")
        )

    def write(self, mask: NDArray[np.uint8], path: Path) -> None:
        """Write a mask as the data set's `data.toml` reads it."""
        codes = mask if self.labels is None else self.labels.invert(mask, self.toml)
        if codes.dtype != np.uint8:
            channels = [codes >> shift & 255 for shift in (0, 8, 16)]
            codes = np.stack(channels, axis=-1)
        Image.fromarray(codes.astype(np.uint8)).save(path)


def _val_images(root: Path, data: DataFile, toml: Path, train: Images) -> list[Path]:
    """Return the images of `val`: those in its folder, or those that its list names."""
    val = Images(root / data.val / "images", train.format)
    if data.val_list is None:
        return list(val.by_path.values())
    named = {f"train/{stem}": path for stem, path in train.by_path.items()}
    named |= {f"val/{stem}": path for stem, path in val.by_path.items()}
    path = toml.parent / data.val_list
    if not path.is_file():
        raise DatasetError(
            f"{path}: got no such file, expected the list of val_list in {toml}: zoo data split makes one"
        )
    return [named[line.id_] for line in read_list(path, IdFinder(tuple(named), (), "image"))]


class Match(NamedTuple):
    """The image of a name."""

    image: Path
    parts: int
    """Number of parts at the end of the name's path that match; 0 for a bare name."""


class Images:
    """The images in a folder tree, by their paths in it without suffix.

    Args:
        folder: folder, which need not exist.
        format_: format of the images.
    """

    def __init__(self, folder: Path, format_: ImageFormat = RGB) -> None:
        self.folder, self.format = folder, format_
        self.suffixes = image_suffixes(format_)
        self.by_path = files_by_stem(folder, self.suffixes)
        self.by_name: dict[str, list[Path]] = {}
        for stem, image in self.by_path.items():
            self.by_name.setdefault(PurePosixPath(stem).name, []).append(image)

    def find(self, name: str, path: Path) -> Match | None:
        """Return the image of a path, of its longest end that is known, or of a bare name if one has it.

        Raises:
            DatasetError: several images of this name.
        """
        place = PurePosixPath(name.replace("\\", "/").lstrip("/"))
        is_file = place.suffix.lower() in self.suffixes
        stem = place.with_suffix("") if is_file else place
        suffix = place.suffix if is_file else ""
        for begin in range(len(stem.parts)):
            end = "/".join(stem.parts[begin:])
            if end in self.by_path:
                return Match(_of_suffix(self.by_path[end], suffix), len(stem.parts) - begin)
        uploaded = UPLOAD.sub("", stem.name)
        names = [stem.name] * (len(stem.parts) == 1) + [uploaded] * (uploaded != stem.name)
        found: Sequence[Path] = next(filter(None, map(self.by_name.get, names)), [])
        if len(found) > 1:
            raise DatasetError(
                f"{path}: got the image {name}, the name of {len(found)} images ({found[0]}, {found[1]}), "
                f"expected one: name the folder in the annotations too"
            )
        return Match(_of_suffix(found[0], suffix), 0) if found else None


def _of_suffix(image: Path, suffix: str) -> Path:
    """Return the image of the same name with a suffix, or the given one; empty for any suffix."""
    other = image.with_suffix(suffix or image.suffix)
    return other if other.is_file() else image


def _bring(one: Imported) -> None:
    """Move or copy an image to its place."""
    one.image.parent.mkdir(parents=True, exist_ok=True)
    if one.action == "moved":
        shutil.move(one.source, one.image)
    elif one.action == "copied":
        with replacing(one.image) as temporary:
            shutil.copy2(one.source, temporary)
