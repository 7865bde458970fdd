"""Regions of LabelMe and of tools that write its files: polygons, rectangles, circles and masks."""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.data.formats.drawing import check_can_draw
from zoo.data.formats.regions import check_near, ellipse, rectangle
from zoo.data.formats.tools import (
    IGNORED,
    SPLITS,
    Entry,
    Shape,
    build,
    content_of,
    images_of,
    pasted,
    size_in,
    size_of,
)
from zoo.data.names import is_in_test
from zoo.errors import DatasetError
from zoo.images import READ_ERRORS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.data.formats.tools import Found, Size

    Points = NDArray[np.float64]

POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2, "rotation": 4, "oriented_rectangle": 4}
"""Fewest points of each type of shape."""


def read_labelme(root: Path) -> Found | None:
    """Return a data set of LabelMe; None if the folder has another layout."""
    folders = [root / name for name in SPLITS if (root / name).is_dir()] or [root]
    images = [
        (folder, stem, image)
        for folder in folders
        for stem, image in images_of(folder).items()
        if not is_in_test(stem)
    ]
    paths = {image: path for _, _, image in images if (path := image.with_suffix(".json")).is_file()}
    if not any('"shapes"' in path.read_text("utf-8", errors="replace") for path in paths.values()):
        return None
    check_can_draw(next(iter(paths.values())))
    shapes, sizes = {}, {}
    for image, path in paths.items():
        content = content_of(path, "LabelMe's shapes")
        sizes[image] = size = size_in(content, "imageWidth", "imageHeight") or size_of(image)
        shapes[image] = [_shape(one, size, path) for one in content.get("shapes", [])]
    names = sorted({shape.name for found in shapes.values() for shape in found} - set(IGNORED))
    entries = (
        Entry(
            SPLITS.get(folder.name, "train"),
            stem,
            image,
            paths.get(image),
            shapes.get(image, []),
            sizes.get(image),
        )
        for folder, stem, image in images
    )
    return build(entries, names)


def _shape(shape: dict[str, Any], size: Size, path: Path) -> Shape:
    """Return the region of a shape.

    Raises:
        DatasetError: a shape that is no region.
    """
    try:
        name, kind = str(shape["label"]), shape.get("shape_type", "polygon")
        points = np.array(shape["points"], float).reshape(-1, 2)
        if len(points) >= POINTS.get(kind, len(points) + 1):
            if kind == "mask":
                return Shape(name, _mask(shape["mask"], points, size))
            return Shape(name, [_corners(kind, points).ravel().tolist()])
    except (KeyError, ValueError, TypeError, *READ_ERRORS) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise DatasetError(
            f"{path}: got a shape that cannot be read ({reason}), expected label and points, and of a mask "
            f"its picture: export it again"
        ) from error
    raise DatasetError(
        f"{path}: got the shape {name} of type {kind} with {len(points)} points, expected a polygon, "
        f"rectangle, circle or mask: draw it again, or remove it"
    )


def _corners(kind: str, points: Points) -> Points:
    """Return the corners of a shape of some type, (N, 2) x, y."""
    if kind == "rectangle":
        return rectangle(*points.min(axis=0), *points.max(axis=0))
    if kind == "circle":
        radius = math.dist(*points[:2])
        return ellipse(points[0], (radius, radius))
    return points


def _mask(text: str, points: Points, size: Size) -> dict[str, Any]:
    """Return the runs of a mask, given as a PNG file whose first pixel is at the upper left point."""
    from pycocotools.mask import encode

    check_near([points])
    left, top = np.floor(points.min(axis=0)).astype(int).tolist()
    runs: dict[str, Any] = encode(np.asfortranarray(pasted(base64.b64decode(text), left, top, size)))
    return runs
