"""Shared parts of the readers of published data sets: finding the folder, its lists and its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zoo.data.files import Pair
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from zoo.data.source import Split


class Layout(NamedTuple):
    """Folder layout of a published data set."""

    name: str
    """Name of the data set in `zoo data prepare`."""
    inside: tuple[str, ...]
    """Subfolders that its archives create, which may contain its folders."""
    folders: tuple[str, ...]
    """Required folders."""


def find_root(spec: str, layout: Layout) -> Path:
    """Return the root folder of a data set: the folder in a spec, or one of its subfolders.

    Args:
        spec: `prefix:folder`.
        layout: layout of the data set.

    Raises:
        DatasetError: a required folder is missing.
    """
    named = Path(spec.partition(":")[2]).expanduser()
    for root in (named, *(named / inner for inner in layout.inside)):
        missing = [folder for folder in layout.folders if not (root / folder).is_dir()]
        if not missing:
            return root
        if len(missing) < len(layout.folders):
            break  # the data set, but incomplete
    else:
        root, missing = named, list(layout.folders)
    raise DatasetError(
        f"{spec}: got no {', '.join(missing)} in {root}, expected {', '.join(layout.folders)} as the data "
        f"set unpacks: correct the folder, or run zoo data prepare {layout.name} {named}"
    )


def read_names(path: Path) -> tuple[str, ...]:
    """Return the names in an official list, one a line, sorted.

    Raises:
        DatasetError: a missing or empty file.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path}: got no list that can be read ({error}), expected one name a line as in the official "
            f"archive: unpack it again"
        ) from error
    names = sorted({line.split()[0] for line in lines if line.strip()})
    if not names:
        raise DatasetError(f"{path}: got an empty list, expected one name a line: unpack the archive again")
    return tuple(names)


def pairs_in(root: Path, folders: Mapping[Split, tuple[str, str]]) -> dict[Split, dict[str, Pair]]:
    """Return all JPEG images with their masks, by split and id, for data sets without lists.

    Args:
        root: folder of the data set.
        folders: folders of the images and of the masks, by split.

    Raises:
        DatasetError: a folder without images, or the mask of an image is missing.
    """
    found: dict[Split, dict[str, Pair]] = {}
    for split, (images, masks) in folders.items():
        folder = root / images
        names = sorted(path.stem for path in folder.glob("*.jpg"))
        if not names:
            raise DatasetError(
                f"{folder}: got no images, expected NAME.jpg as in the official archive: unpack it again"
            )
        found[split] = pairs_of(names, folder, root / masks, split)
    return found


def images_of(names: Iterable[str], folder: Path, prefix: str) -> dict[str, Pair]:
    """Return the images of a list by id `prefix/name`, without masks.

    Raises:
        DatasetError: an image is missing.
    """
    names = tuple(names)
    _check_all_there(folder, [f"{name}.jpg" for name in names], "image")
    return {f"{prefix}/{name}": Pair(folder / f"{name}.jpg", None) for name in names}


def pairs_of(names: Iterable[str], images: Path, masks: Path, prefix: str) -> dict[str, Pair]:
    """Return the images of a list with their masks, by id `prefix/name`.

    Raises:
        DatasetError: an image or a mask is missing.
    """
    found = images_of(names, images, prefix)
    _check_all_there(masks, [f"{pair.image.stem}.png" for pair in found.values()], "mask")
    return {id_: Pair(image, masks / f"{image.stem}.png") for id_, (image, *_) in found.items()}


def _check_all_there(folder: Path, names: list[str], kind: str) -> None:
    """Raise if a folder lacks a file; listing it once is faster than thousands of checks."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    missing = [name for name in names if name not in there]
    if missing:
        raise DatasetError(
            f"{folder}: got no {missing[0]} ({len(missing)} of {len(names)} files are missing), expected "
            f"the {kind} of every name in the data set: run zoo data prepare, which adds what is missing"
        )
