"""Images on which artifacts are compared with the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data.files import image_suffixes, read_image_file
from zoo.data.open import open_source
from zoo.data.source import evenly_spaced
from zoo.errors import DatasetError
from zoo.export.parity.accuracy import LabeledImages
from zoo.export.parity.compare import Images
from zoo.image_format import RGB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zoo.classes import Classes
    from zoo.data.source import Split
    from zoo.image_format import ImageFormat

COUNT = 8
LABELED = 128
BUILT_IN = "shapes"
SPLITS: tuple[Split, ...] = ("val", "train")


def parity_images(
    spec: str | None,
    recipe: Mapping[str, Any],
    on_event: Callable[[str], None],
    format_: ImageFormat = RGB,
) -> Images:
    """Return up to `COUNT` images to compare on.

    Args:
        spec: folder of images or data source; None for the validation images of the recipe's source.
        recipe: recipe in the bundle.
        on_event: called with a warning if the recipe's source is missing and built-in images are used.
        format_: format of the images that the model takes.

    Raises:
        DatasetError: `spec` has no images of this format; or the recipe's source is missing, and built-in
            images have another format.
    """
    if spec is not None:
        return _from_folder(Path(spec), format_) or _from_source(spec, format_)
    try:
        return _from_source(_recorded(recipe), format_)
    except DatasetError as error:
        if not format_.is_rgb:
            raise DatasetError(
                f"no images of the model's training data ({error}), expected images of {format_} to compare "
                f"on: select some with --images"
            ) from error
        on_event(
            f"warning: no images of the model's training data ({error}): comparing on built-in {BUILT_IN}, "
            f"which it may never have seen; --images selects better ones"
        )
        return _from_source(BUILT_IN, format_)


def labeled_images(
    spec: str | None, recipe: Mapping[str, Any], classes: Classes, format_: ImageFormat = RGB
) -> LabeledImages | None:
    """Return up to `LABELED` validation images with their masks, evenly spaced.

    Args:
        spec: data source; None for the recipe's.
        recipe: recipe in the bundle.
        classes: classes of the model, which the source must have.
        format_: format of the images that the model takes.

    Returns:
        None if there are no such images.
    """
    try:
        source = open_source(spec or _recorded(recipe))
    except DatasetError:
        return None
    ids = evenly_spaced(source.ids("val"), LABELED)
    if not ids or source.classes.names != classes.names or not source.format.fits(format_):
        return None
    images, labels = (tuple(map(read, ids)) for read in (source.read_image, source.read_mask))
    return LabeledImages(images, labels, f"{len(ids)} val images of {source.spec}")


def _recorded(recipe: Mapping[str, Any]) -> str:
    spec = recipe.get("data", {}).get("spec")
    if spec is None:
        raise DatasetError("its recipe names no data")
    return str(spec)


def _from_folder(folder: Path, format_: ImageFormat) -> Images | None:
    """Return the images directly in a folder, None if there are none."""
    if not folder.is_dir():
        return None
    suffixes = image_suffixes(format_)
    paths = evenly_spaced(sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes), COUNT)
    if not paths:
        return None
    images = tuple(read_image_file(path, format_) for path in paths)
    return Images(images, f"{len(paths)} images of {folder}")


def _from_source(spec: str, format_: ImageFormat) -> Images:
    source = open_source(spec)
    source.check_format(format_)
    for split in SPLITS:
        if ids := evenly_spaced(source.ids(split), COUNT):
            return Images(tuple(map(source.read_image, ids)), f"{len(ids)} {split} images of {spec}")
    raise DatasetError(f"{spec} has no images, expected some to compare on: select others with --images")
