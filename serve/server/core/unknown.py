"""Masks whose unsure pixels are class 255, for requests with `unknown_below`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.errors import BundleError
from zoo.predictors.outputs import MASK, RELIABILITY, check_unknown, without_unsure
from zoo.serve.server.core.errors import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.serve.server.core.model import Model
    from zoo.serve.server.core.runner import Values

DESCRIPTION = "Reliability, 0 to 1, below which a pixel of the mask is 255, of a calibrated model."


def computed(model: Model, outputs: Sequence[str], unknown_below: float | None) -> tuple[str, ...]:
    """Return the outputs to compute for those of a request: with the reliability, if it decides on the mask.

    Raises:
        BadRequestError: a model without reliability or of more than 255 classes, or no mask in the request.
    """
    if unknown_below is None:
        return tuple(outputs)
    if MASK not in outputs:
        raise BadRequestError(
            f"got unknown_below and output {'+'.join(outputs)}, expected {MASK} among the outputs: unknown "
            f"pixels are class 255 of the mask"
        )
    if RELIABILITY not in model.outputs:
        raise BadRequestError(
            f"got unknown_below, but {model.name} has no reliability: run zoo calibrate, export with "
            f"--output {MASK}+{RELIABILITY}, and serve that"
        )
    try:
        check_unknown(unknown_below, model.classes)
    except BundleError as error:
        raise BadRequestError(str(error)) from error
    return tuple(dict.fromkeys((*outputs, RELIABILITY)))


def with_unknown(found: Sequence[Values], unknown_below: float | None) -> Sequence[Values]:
    """Return the outputs of each image, with 255 in the mask where the reliability is below a value."""
    if unknown_below is None:
        return found
    return [{**values, MASK: without_unsure(values, unknown_below)} for values in found]
