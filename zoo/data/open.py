"""Sources by the text of `--data`."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.data.folder import FolderSource
from zoo.data.formats.ade20k import Ade20kSource
from zoo.data.formats.cityscapes import CityscapesSource
from zoo.data.formats.coco_2017 import Coco2017Source
from zoo.data.formats.pascal_context import PascalContextSource
from zoo.data.formats.voc import VocSource
from zoo.data.shapes import ShapesSource
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.data.source import Source

log = logging.getLogger(__name__)

BUILT_IN: dict[str, Callable[[str], Source]] = {"shapes": ShapesSource.of}
"""Sources that need no folder; each factory takes the whole spec."""

PREFIXES: dict[str, Callable[[str], Source]] = {
    "voc": VocSource,
    "voc-classic": partial(VocSource, masks="own"),
    "cityscapes": CityscapesSource,
    "cityscapes-extra": CityscapesSource,
    "pascal-context": PascalContextSource,
    "pascal-context-59": PascalContextSource,
    "ade20k": Ade20kSource,
    "coco": Coco2017Source,
}
"""Published data sets by the prefix of `prefix:folder`; each factory takes the whole spec."""


def is_published(spec: str) -> bool:
    """Return whether a spec names a published data set."""
    prefix, colon, _ = spec.partition(":")
    return bool(colon) and prefix in PREFIXES


def built_in_name(spec: str) -> str | None:
    """Return the name of the built-in source of a spec such as `shapes` or `shapes:500`, or None."""
    name = spec.partition(":")[0]
    return name if name in BUILT_IN else None


def open_source(spec: str) -> Source:
    """Return the source that a spec names.

    Args:
        spec: `shapes`, `shapes:500` (with 500 validation images), `prefix:folder`, a folder, or a
            `data.toml`.

    Raises:
        DatasetError: an unknown spec, or a source that cannot be opened.
    """
    if name := built_in_name(spec):
        if Path(spec).exists():
            log.warning("%s: the built-in data set is used; --data ./%s names the folder", spec, spec)
        return BUILT_IN[name](spec)
    if is_published(spec):
        return PREFIXES[spec.partition(":")[0]](spec)
    if spec and Path(spec).exists():
        return FolderSource(spec)
    known = ", ".join([*BUILT_IN, *(f"{name}:FOLDER" for name in PREFIXES)])
    raise DatasetError(
        f"{spec}: got neither a known data set nor an existing path, expected {known}, "
        f"a folder with train/images and train/masks, or a data.toml: check the spelling"
    )
