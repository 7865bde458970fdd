"""Encoding of outputs: PNG or NumPy; masks also as JSON of runs and areas, or as an overlay."""

from __future__ import annotations

import io
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from zoo.images import DEFLATE
from zoo.pages.overlay import overlay
from zoo.predictors.outputs import MASK, Format, draw_output
from zoo.serve.server.http.schemas import ClassArea, MaskAnswer, Runs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from zoo.classes import Classes, Color, Mask

MEDIA_TYPES: dict[Format, str] = {
    "png": "image/png",
    "npy": "application/x-npy",
    "json": "application/json",
    "overlay": "image/png",
}


def as_npy(values: NDArray[Any]) -> bytes:
    """Return the bytes of a `.npy` file of the (H, W) values of an output."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()


def as_overlay(image: NDArray[np.uint8], mask: Mask, classes: Classes) -> bytes:
    """Return a PNG of the (H, W, 3) image in the colors of its (H, W) mask."""
    file = io.BytesIO()
    Image.fromarray(overlay(image, mask, classes)).save(file, "PNG", **DEFLATE)
    return file.getvalue()


def as_json(
    mask: Mask, classes: Classes, model: str, version: str, others: Mapping[str, NDArray[Any]]
) -> bytes:
    """Return the JSON of a `MaskAnswer`, with other outputs by name."""
    answer = MaskAnswer.model_construct(
        model=model,
        version=version,
        size=mask.shape,
        areas=areas(mask, classes),
        rle=runs(mask),
        outputs={name: b64encode(values.tobytes()).decode() for name, values in others.items()},
    )
    return answer.model_dump_json().encode()


def areas(mask: Mask, classes: Classes) -> list[ClassArea]:
    """Return the share of each class that appears in a (H, W) mask, in label order; of no class, `IGNORE`."""
    counts = np.bincount(mask.ravel(), minlength=len(classes))
    return [
        ClassArea(
            label=label,
            name=classes.names[label],
            color=hex_color(classes.palette[label]),
            pixels=counts[label],
            share=counts[label] / mask.size,
        )
        for label in np.flatnonzero(counts[: len(classes)]).tolist()
    ]


def runs(mask: Mask) -> Runs:
    """Return the run-length encoding of a (H, W) mask, row by row.

    Example:
        >>> runs(np.array([[0, 0, 1], [1, 1, 0]], np.uint8))
        Runs(labels=[0, 1, 0], lengths=[2, 3, 1])
    """
    flat = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size)
    return Runs.model_construct(labels=flat[starts].tolist(), lengths=lengths.tolist())


def hex_color(color: Color) -> str:
    """Return a color in CSS notation.

    Example:
        >>> hex_color((128, 0, 255))
        '#8000ff'
    """
    red, green, blue = color
    return f"#{red:02x}{green:02x}{blue:02x}"


def encoder(
    format_: Format, classes: Classes, model: str, version: str, outputs: Sequence[str] = (MASK,)
) -> Callable[..., bytes]:
    """Return the function from image and values of each output to the body of a response."""
    encoders: dict[Format, Callable[..., bytes]] = {
        "png": lambda _, values: draw_output(outputs[0], values, classes),
        "npy": lambda _, values: as_npy(values),
        "json": lambda _, mask, *others: as_json(
            mask, classes, model, version, dict(zip(outputs[1:], others, strict=True))
        ),
        "overlay": lambda image, mask: as_overlay(image, mask, classes),
    }
    return encoders[format_]
