"""Conversion of the MATLAB masks of SBD and PASCAL-Context, in tar archives, to index PNG."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.bundle.bundle import write_text
from zoo.data.formats import pascal_context, voc
from zoo.data.formats.official import find_root, read_names
from zoo.data.prepare.masks import save_mask
from zoo.data.prepare.unpack import members, merge, working_folder
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from numpy.typing import NDArray

    from zoo.data.prepare.download import Report

CATEGORIES = 459


def add_sbd(archive: Path, folder: Path, report: Report) -> None:
    """Write SBD's masks of the images without a VOC mask, and the list of all training images.

    Args:
        archive: `benchmark.tgz` of SBD: `dataset/cls/ID.mat`, each with `GTcls.Segmentation`, (H, W), 0..20.
        folder: folder of VOC 2012 in its official layout.
        report: called with a description and the number of masks done.

    Raises:
        DatasetError: scipy is not installed, or the archive is not that of SBD.
    """
    root = find_root(f"voc:{folder}", voc.LAYOUT)
    own, val = (read_names(root / voc.LISTS / f"{name}.txt") for name in ("train", "val"))
    with working_folder(root) as working:
        masks = working / "masks"
        added = _convert(archive, "dataset/cls", masks, {*own, *val}, _read_sbd, report)
        names = sorted({*own, *added})
        write_text(root / voc.LISTS / "trainaug.txt", "".join(f"{name}\n" for name in names))
        merge(masks, root / voc.ADDED_MASKS)


def add_context(archive: Path, folder: Path, report: Report) -> None:
    """Write the masks of PASCAL-Context, 0..59, and the lists of its training and validation images.

    Args:
        archive: `trainval.tar.gz` of PASCAL-Context: `trainval/ID.mat`, each with `LabelMap`, (H, W), 0..459.
        folder: folder of VOC 2010 in its official layout, whose lists for the detection task are those of
            PASCAL-Context.
        report: called with a description and the number of masks done.

    Raises:
        DatasetError: scipy is not installed, or the archive is not that of PASCAL-Context.
    """
    layout = pascal_context.LAYOUT._replace(folders=(pascal_context.IMAGES, "ImageSets/Main"))
    root = find_root(f"pascal-context:{folder}", layout)
    with working_folder(root) as working:
        masks = working / "masks"
        annotated = _convert(archive, "trainval", masks, (), _read_context, report)
        for split in ("train", "val"):
            names = [
                name for name in read_names(root / "ImageSets/Main" / f"{split}.txt") if name in annotated
            ]
            path = root / pascal_context.LISTS / f"{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, "".join(f"{name}\n" for name in names))
        merge(masks, root / pascal_context.MASKS)


def _convert(
    archive: Path,
    inside: str,
    masks: Path,
    left_out: Collection[str],
    read: Callable[[bytes], NDArray[np.uint8]],
    report: Report,
) -> set[str]:
    """Write the masks of an archive to a new folder and return their names."""
    if find_spec("scipy") is None:
        raise DatasetError(
            f"{archive}: got masks in MATLAB's format, expected scipy to read them: "
            f"pip install 'semiseg-zoo[prepare]'"
        )

    def is_wanted(name: str) -> bool:
        path = PurePosixPath(name)
        return (
            path.suffix == ".mat"
            and f"/{path.parent}".endswith(f"/{inside}")
            and not path.name.startswith("._")
            and path.stem not in left_out
        )

    masks.mkdir()
    done: set[str] = set()
    for name, content in members(archive, is_wanted):
        stem = PurePosixPath(name).stem
        try:
            save_mask(read(content.read()), masks / f"{stem}.png")
        except (ValueError, TypeError, KeyError, IndexError, OSError, NotImplementedError) as error:
            raise DatasetError(
                f"{archive}: got {name}, no mask that can be converted ({error!r}), expected the official "
                f"archive and room for its masks: make room, or remove the archive and fetch it again"
            ) from error
        done.add(stem)
        report(f"converting {archive.name}", len(done), None)
    if not done:
        raise DatasetError(
            f"{archive}: got no {inside}/*.mat, expected the masks in it: this is not the official archive"
        )
    return done


def _read_sbd(content: bytes) -> NDArray[np.uint8]:
    """Return a mask of SBD, (H, W), labels 0..20."""
    mask = _load(content, "GTcls")["Segmentation"][0, 0]
    if mask.ndim != 2 or mask.max() >= len(voc.CLASSES):
        raise ValueError(f"labels up to {mask.max()}, expected 0..{len(voc.CLASSES) - 1}")
    return mask.astype(np.uint8)  # type: ignore[no-any-return]


def _read_context(content: bytes) -> NDArray[np.uint8]:
    """Return a mask of PASCAL-Context, (H, W), labels 0..59."""
    categories = _load(content, "LabelMap")
    table = np.zeros(CATEGORIES + 1, np.uint8)
    table[list(pascal_context.OFFICIAL_IDS)] = np.arange(len(pascal_context.OFFICIAL_IDS))
    if categories.ndim != 2 or categories.max() > CATEGORIES:
        raise ValueError(f"categories up to {categories.max()}, expected 0..{CATEGORIES}")
    return table[categories.astype(np.intp)]


def _load(content: bytes, name: str) -> NDArray[Any]:
    """Return a variable of a MATLAB file."""
    from scipy.io import loadmat

    return loadmat(io.BytesIO(content), variable_names=[name])[name]  # type: ignore[no-any-return]
