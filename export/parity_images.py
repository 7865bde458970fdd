"""Images on which artifacts are compared with the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zoo.data.files import IMAGE_SUFFIXES, read_image_file
from zoo.data.open import open_source
from zoo.errors import DatasetError
from zoo.export.accuracy import LabeledImages
from zoo.export.parity import Images

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from zoo.classes import Classes
    from zoo.data.source import Split

COUNT = 8
LABELED = 128
BUILT_IN = "shapes"
SPLITS: tuple[Split, ...] = ("val", "train")

Item = TypeVar("Item")


def parity_images(spec: str | None, recipe: Mapping[str, Any], on_event: Callable[[str], None]) -> Images:
    """Return up to `COUNT` images to compare on.

    Args:
        spec: folder of images or data source; None for the validation images of the recipe's source.
        recipe: recipe in the bundle.
        on_event: called with a warning if the recipe's source is missing and built-in images are used.

    Raises:
        DatasetError: `spec` has no images.
    """
    if spec is not None:
        return _from_folder(Path(spec)) or _from_source(spec)
    try:
        return _from_source(_recorded(recipe))
    except DatasetError as error:
        on_event(
            f"warning: no images of the model's training data ({error}): comparing on built-in {BUILT_IN}, "
            f"which it may never have seen; --images selects better ones"
        )
        return _from_source(BUILT_IN)


def labeled_images(spec: str | None, recipe: Mapping[str, Any], classes: Classes) -> LabeledImages | None:
    """Return up to `LABELED` validation images with their masks, evenly spaced.

    Args:
        spec: data source; None for the recipe's.
        recipe: recipe in the bundle.
        classes: classes of the model, which the source must have.

    Returns:
        None if there are no such images.
    """
    try:
        source = open_source(spec or _recorded(recipe))
    except DatasetError:
        return None
    ids = _spread(source.ids("val"), LABELED)
    if not ids or source.classes.names != classes.names:
        return None
    images, labels = (tuple(map(read, ids)) for read in (source.read_image, source.read_mask))
    return LabeledImages(images, labels, f"{len(ids)} val images of {source.spec}")


def _recorded(recipe: Mapping[str, Any]) -> str:
    spec = recipe.get("data", {}).get("spec")
    if spec is None:
        raise DatasetError("its recipe names no data")
    return str(spec)


def _from_folder(folder: Path) -> Images | None:
    """Return the images directly in a folder, None if there are none."""
    if not folder.is_dir():
        return None
    paths = _spread(sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES))
    if not paths:
        return None
    return Images(tuple(map(read_image_file, paths)), f"{len(paths)} images of {folder}")


def _from_source(spec: str) -> Images:
    source = open_source(spec)
    for split in SPLITS:
        if ids := _spread(source.ids(split)):
            return Images(tuple(map(source.read_image, ids)), f"{len(ids)} {split} images of {spec}")
    raise DatasetError(f"{spec} has no images, expected some to compare on: select others with --images")


def _spread(items: Sequence[Item], count: int = COUNT) -> Sequence[Item]:
    """Return up to `count` evenly spaced items."""
    return items[:: max(1, len(items) // count)][:count]
