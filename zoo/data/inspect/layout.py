"""Files of a data set and their pairing, tolerant of wrong names and suffixes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zoo.data.data_file import image_format
from zoo.data.files import IMAGE_SUFFIXES, MASK_SUFFIXES, UNLISTABLE, image_suffixes
from zoo.data.folder import MASKED, inner, recognized_in
from zoo.data.formats.coco import ANNOTATIONS, read_annotations
from zoo.data.inspect.findings import Finding
from zoo.data.lists import hold_out
from zoo.data.names import alike, match_masks, near
from zoo.data.walk import by_stem, walk
from zoo.errors import DatasetError
from zoo.image_format import RGB

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from zoo.data.data_file import DataFile
    from zoo.data.formats.coco import Annotations
    from zoo.data.formats.layouts import Recognized
    from zoo.data.formats.per_label import AnyDrawing
    from zoo.data.source import Split


MOST_SHOWN = 6
"""Number of names in a finding."""


class Item(NamedTuple):
    """The files of an image."""

    split: Split
    image: Path
    mask: Path | None = None
    drawing: AnyDrawing | None = None


class Layout:
    """The files of a data set, and the findings about their names.

    Args:
        root: folder of the data set.
        items: files of its images, if they are known.
    """

    def __init__(self, root: Path, items: Iterable[Item] = ()) -> None:
        self.root = root
        self.items = list(items)
        self.findings: list[Finding] = []
        self.tool: str | None = None
        """Name of another tool's layout."""
        self.drawn_names: tuple[str, ...] | None = None
        """Class names of drawn masks, the background first."""
        self.format = RGB
        """Declared format of the images."""

    def name(self, path: Path) -> str:
        """Return the name of a file in findings: its path relative to the folder."""
        return relative_name(path, self.root)


class FolderLayout(Layout):
    """The files of a plain folder, with any names.

    Args:
        root: root folder.
        data: description with the names of the subfolders.
        toml: path of the description.
    """

    def __init__(self, root: Path, data: DataFile, toml: Path) -> None:
        super().__init__(root)
        self.data = data
        try:
            self.format = image_format(data, toml)
        except DatasetError as error:
            self._find("data-file", toml, detail=str(error).removeprefix(f"{toml}: "))
        self._is_held_out = data.val_list is not None
        recognized = self._recognized(root, data)
        if recognized is None:
            self._add_pairs("train", root / data.train)
        unlabeled = self._images(inner(root / data.unlabeled))
        self.items += [Item("unlabeled", image) for image in unlabeled.values()]
        if recognized is None:
            self._add_pairs("val", root / data.val)
        else:
            self._add_recognized(recognized, toml)
        if data.val_list is not None and recognized is None:
            self._hold_out(toml, toml.parent / data.val_list, data)

    def _recognized(self, root: Path, data: DataFile) -> Recognized | None:
        try:
            return recognized_in(root, data)
        except DatasetError as error:
            self.findings.append(Finding("annotations", (), str(error)))
            return None

    def _add_recognized(self, recognized: Recognized, toml: Path) -> None:
        """Add the images of another tool's layout."""
        self.data, self.tool, self.drawn_names = recognized.data, recognized.tool, recognized.names
        files = recognized.files
        if self.data.val_list is not None:
            try:
                files = files | hold_out(toml.parent / self.data.val_list, files["train"], files["val"])
            except DatasetError as error:
                self._find("data-file", toml, detail=str(error))
        for split in MASKED:
            if not files[split]:
                how = f"; zoo data split {self.root} --val 1/5 chooses some" if split == "val" else ""
                self._find("no-images", detail=f"{split}: recognized as {self.tool}{how}")
        self.items += [Item(split, *pair) for split, pairs in files.items() for pair in pairs.values()]

    def _hold_out(self, toml: Path, path: Path, data: DataFile) -> None:
        """Let `val` be the images of a list, as training does."""
        pools: dict[str, dict[str, Item]] = {"train": {}, "val": {}, "unlabeled": {}}
        for item in self.items:
            folder = self.root / getattr(data, item.split) / "images"
            name = item.image.relative_to(folder) if item.split != "unlabeled" else item.image
            pools[item.split][f"{item.split}/{name.with_suffix('').as_posix()}"] = item
        try:
            held = hold_out(path, pools["train"], pools["val"])
        except DatasetError as error:
            self._find("data-file", toml, detail=str(error))
            return
        items = [item._replace(split=split) for split, found in held.items() for item in found.values()]
        self.items = [*items, *pools["unlabeled"].values()]

    def _find(self, kind: str, *files: Path, detail: str = "") -> None:
        self.findings.append(Finding(kind, tuple(map(self.name, files)), detail))

    def _add_pairs(self, split: Split, folder: Path) -> None:
        images = self._images(folder / "images")
        if not images and not (split == "val" and self._is_held_out):
            there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
            got = f"it holds {', '.join(there[:6]) or 'nothing'}" if folder.is_dir() else "no such folder"
            self._find("no-images", folder / "images", detail=f"{split}: {got}")
        if (folder / ANNOTATIONS).is_file() and not (folder / "masks").is_dir():
            self._add_drawn(split, folder / ANNOTATIONS, images)
            return
        self._add_masked(split, images, folder / "masks")

    def _add_masked(self, split: Split, images: dict[str, Path], folder: Path) -> None:
        """Add images with their mask files, including masks with a similar name."""
        files = self._files(folder, IMAGE_SUFFIXES)
        masks = self._by_stem(folder, [path for path in files if path.suffix.lower() in MASK_SUFFIXES])
        lossy = self._by_stem(folder, [path for path in files if path.suffix.lower() not in MASK_SUFFIXES])
        found = {stem: masks.pop(mask) for stem, mask in match_masks(images, masks).items()}
        by_name = alike(masks)
        for stem, image in images.items():
            if stem in found:
                continue
            others = near(stem, by_name)
            if len(others) == 1 and others[0] in masks:
                found[stem] = masks.pop(others[0])
                self._find("mask-name", image, found[stem])
            elif stem in lossy:
                self._find("lossy-mask", lossy.pop(stem))
            else:
                self._find("missing-mask", image)
        for path in sorted((*masks.values(), *lossy.values())):
            self._find("orphan-mask", path)
        self.items += [Item(split, image, found.get(stem)) for stem, image in images.items()]

    def _add_drawn(self, split: Split, path: Path, images: dict[str, Path]) -> None:
        """Add images with their regions in COCO annotations."""
        try:
            beside = (self.root / getattr(self.data, key) / ANNOTATIONS for key in ("train", "val"))
            annotations = read_annotations(path, self.data.coco, *beside)
        except DatasetError as error:
            self._find("annotations", path, detail=str(error).removeprefix(f"{path}: "))
            self.items += [Item(split, image) for image in images.values()]
            return
        self.drawn_names = self.drawn_names or annotations.names
        for kind, names in (("unused-parents", annotations.unused), ("skipped", annotations.skipped)):
            if names:
                self._find(kind, path, detail=_first(names))
        self._match_drawn(split, path, images, annotations)

    def _match_drawn(
        self, split: Split, path: Path, images: dict[str, Path], annotations: Annotations
    ) -> None:
        """Add images with their regions, and find those without and regions without an image."""
        used = set()
        found, unclear = annotations.match(images)
        for stem, image in images.items():
            drawing = found.get(stem)
            if stem in unclear:
                self._find("unclear-entry", image, detail=f"{unclear[stem]}, in {path.name}")
            elif drawing is None:
                self._find("missing-mask", image, detail=f"not listed in {path.name}")
            else:
                used.add(drawing.where)
            self.items.append(Item(split, image, path if drawing else None, drawing))
        for name, drawing in annotations.drawings.items():
            if drawing.where not in used:
                self._find("orphan-mask", path, detail=f"lists {name}, which is not there")

    def _images(self, folder: Path) -> dict[str, Path]:
        found = self._by_stem(folder, self._files(folder, image_suffixes(self.format)))
        for stem, path in found.items():
            if UNLISTABLE.search(stem):
                self._find("unlistable-name", path)
        return found

    def _files(self, folder: Path, suffixes: Collection[str]) -> list[Path]:
        """Return the files of a folder with some suffixes, sorted; what is skipped are findings."""
        tree = walk(folder, suffixes)
        for kind, paths in (
            ("other-file", tree.others),
            ("hidden-folder", tree.hidden),
            ("linked-again", tree.again),
        ):
            for path in paths:
                self._find(kind, path)
        return tree.files

    def _by_stem(self, folder: Path, paths: list[Path]) -> dict[str, Path]:
        """Return the first file of each relative path without suffix, sorted; further ones are findings."""
        found = by_stem(folder, paths)
        for same in found.values():
            if len(same) > 1:
                self._find("two-files", *same)
        return {stem: same[0] for stem, same in found.items()}


def relative_name(path: Path, root: Path) -> str:
    """Return a path relative to a folder, or unchanged if outside it; what is not UTF-8 is escaped."""
    return escaped(path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path))


def escaped(name: str) -> str:
    """Return a file name with what is not UTF-8 as escape sequences."""
    return name.encode(errors="backslashreplace").decode()


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_SHOWN]) + f" and {len(names) - MOST_SHOWN} more" * (len(names) > MOST_SHOWN)
