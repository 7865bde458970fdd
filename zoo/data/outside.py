"""Check that a command does not write pictures among images of a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.data.files import FileSource
from zoo.data.folder import FolderSource
from zoo.data.open import is_published
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoo.data.source import Source


def check_outside(out: Path, source: Source, option: str = "--out") -> None:
    """Raise if files would be written among data, whose listing would then include their pictures.

    Args:
        out: output folder.
        source: the data.
        option: option that sets the folder, for the message.

    Raises:
        DatasetError: `out` is the folder of the data, or in a folder of images or masks.
    """
    if not isinstance(source, FileSource):
        return
    path = out.resolve()
    inside = [folder for folder in _folders(source) if folder in (path, *path.parents)]
    if inside or (not is_published(source.spec) and path == Path(source.spec).resolve()):
        raise DatasetError(
            f"{option} {out} is among the images of {source.spec}, expected another folder, such as "
            f"runs/{path.name}: the next start would take pictures in it for images"
        )


def _folders(source: FileSource) -> Iterator[Path]:
    """Yield the folders of images and masks, those above them as far as the data have one in common."""
    files = [path for image, mask, _ in source.files.values() for path in (image, mask) if path is not None]
    parents = {Path(each).resolve() for each in {os.path.dirname(path) for path in files}}  # noqa: PTH120
    common = Path(os.path.commonpath(parents))
    yield from parents
    yield from {folder for parent in parents for folder in parent.parents if common in folder.parents}
    if isinstance(source, FolderSource):
        yield (source.root / source.data.unlabeled).resolve()
