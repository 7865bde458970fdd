"""Table of outputs of a model, with their types, resizing, file names and drawing.

An output is one row here: networks, exported graphs, `zoo predict`, the server and Triton read this table.
Other packages add rows by entry points of the group `zoo.outputs`. The table does not load PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from zoo.errors import BundleError
from zoo.plugins import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from zoo.bundle.reliability import Calibration
    from zoo.classes import Classes, Mask

Dim = TypeVar("Dim", int, str)

Dtype = Literal["uint8", "int32", "float32"]
Format = Literal["png", "npy", "json", "overlay"]
"""Response formats of `POST /predict`."""

MASK, LOGITS, CONFIDENCE, RELIABILITY = "mask", "logits", "confidence", "reliability"
"""Names of the built-in outputs."""

MAX_UINT8_CLASSES = 255

MAX_VALUE = 255
"""Value of a probability of 1 in `confidence` and `reliability`."""


def mask_dtype(num_classes: int) -> Literal["uint8", "int32"]:
    """Return the element type of masks with this number of classes."""
    return "uint8" if num_classes <= MAX_UINT8_CLASSES else "int32"


def gray_png(values: NDArray[np.uint8], classes: Classes) -> bytes:  # noqa: ARG001 - signature of `draw`
    """Return a gray PNG of (H, W) uint8 values."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class OutputRow:
    """One output.

    Args:
        title: description for help texts.
        compute: function from (B, K, H, W) logits, which may be in half precision, to (B, H, W), or
            (B, K, H, W) with `channels`, by PyTorch operators that can be exported to ONNX; a cast to uint8
            must come last, or TensorRT rejects it. With `calibrated`, it takes the model's calibration too.
        dtype: element type, or a function that returns it for a number of classes.
        channels: whether the output has one plane for each class.
        resize: interpolation to the size of the image: `nearest`, or `bilinear` as the networks resize logits
            (aligned corners).
        suffix: suffix of the file that `zoo predict` writes beside the mask; empty if it writes none.
        formats: formats in which the server returns it; empty if it is not served.
        draw: function that returns (H, W) values as PNG, for files and the server.
        calibrated: whether only models that `zoo calibrate` calibrated have it.
    """

    title: str
    compute: Callable[..., Tensor]
    dtype: Dtype | Callable[[int], Dtype] = "uint8"
    channels: bool = False
    resize: Literal["nearest", "bilinear"] = "nearest"
    suffix: str = ""
    formats: tuple[Format, ...] = ()
    draw: Callable[[NDArray[Any], Classes], bytes] = gray_png
    calibrated: bool = False


def _mask(logits: Tensor) -> Tensor:
    from zoo.predictors.decision import choose

    return choose(logits)


def _confidence(logits: Tensor) -> Tensor:
    from zoo.predictors.decision import confidence

    return confidence(logits)


def _reliability(logits: Tensor, calibration: Calibration) -> Tensor:
    from zoo.predictors.scores import reliability

    return reliability(logits, calibration)


def _draw_mask(mask: Mask, classes: Classes) -> bytes:
    from zoo.images import mask_png

    return mask_png(mask, classes)


OUTPUTS = Table(
    "zoo.outputs",
    OutputRow,
    {
        MASK: OutputRow(
            "class of each pixel",
            _mask,
            mask_dtype,
            suffix=".png",
            formats=("png", "npy", "json", "overlay"),
            draw=_draw_mask,
        ),
        LOGITS: OutputRow(
            "scores of all classes", lambda logits: logits, "float32", channels=True, resize="bilinear"
        ),
        CONFIDENCE: OutputRow(
            "probability of each pixel's class, 0 to 255",
            _confidence,
            suffix=".confidence.png",
            formats=("png", "npy"),
        ),
        RELIABILITY: OutputRow(
            "calibrated probability that each pixel's class is right, 0 to 255",
            _reliability,
            suffix=".reliability.png",
            formats=("png", "npy"),
            calibrated=True,
        ),
    },
)


class Output(NamedTuple):
    """An output of a model, with its type and channels."""

    name: str
    dtype: Dtype
    channels: tuple[int, ...] = ()
    """(K,) if the output has one plane for each class."""

    def size(self, batch: Dim, height: Dim, width: Dim) -> tuple[int | Dim, ...]:
        """Return its shape for a batch, of numbers or of names of dynamic dimensions."""
        return batch, *self.channels, height, width


def output_of(name: str, num_classes: int) -> Output:
    """Return the output of a name for a number of classes."""
    row = OUTPUTS[name]
    dtype = row.dtype(num_classes) if callable(row.dtype) else row.dtype
    return Output(name, dtype, (num_classes,) if row.channels else ())


def parse_outputs(text: str) -> tuple[str, ...]:
    """Return the names in a text such as `mask+confidence`.

    Raises:
        ValueError: an unknown or duplicate name, or neither `mask` nor `logits`.
    """
    names = tuple(text.split("+"))
    for name in names:
        if name not in OUTPUTS:
            raise ValueError(f"got output {name!r}, expected some of {', '.join(OUTPUTS)}, joined by +")
    if len(set(names)) < len(names):
        raise ValueError(f"got outputs {text!r}, expected each once")
    if not {MASK, LOGITS} & set(names):
        raise ValueError(f"got outputs {text!r}, expected {MASK} or {LOGITS} among them")
    return names


def derive(
    given: Mapping[str, Tensor], names: Sequence[str], calibration: Calibration | None = None
) -> dict[str, Tensor]:
    """Return outputs by name: those of a model, and others computed from its logits.

    Args:
        given: outputs of the model by name.
        names: names of the requested outputs.
        calibration: calibration of the model; None if it has none.

    Raises:
        BundleError: an output that the model does not have, without logits or calibration to compute it from.
    """
    check_given(tuple(given), names, calibration)
    found = {}
    for name in names:
        row = OUTPUTS[name]
        if name in given:
            found[name] = given[name]
        elif row.calibrated:
            found[name] = row.compute(given[LOGITS], calibration)
        else:
            found[name] = row.compute(given[LOGITS])
    return found


def check_given(given: Sequence[str], names: Sequence[str], calibration: Calibration | None = None) -> None:
    """Raise unless all outputs are given or can be computed.

    Raises:
        BundleError: an output that is not given, without logits or calibration to compute it from.
    """
    known = derivable(given, calibration)
    for name in names:
        if name not in known:
            if LOGITS in given and name in OUTPUTS and calibration is None:
                raise BundleError(uncalibrated(name))
            raise BundleError(
                f"the model returns {', '.join(known)}, got a request for {name!r}: use the bundle, or "
                f"export again with --output {MASK}+{name}"
            )


def derivable(given: Sequence[str], calibration: Calibration | None = None) -> tuple[str, ...]:
    """Return the names of the outputs that are given or can be computed."""
    if LOGITS not in given:
        return tuple(given)
    is_known = calibration is not None and calibration.is_from_logits
    return tuple(name for name, row in OUTPUTS.items() if name in given or is_known or not row.calibrated)


def uncalibrated(name: str) -> str:
    """Return the message for an output that a model without calibration does not have."""
    return f"{name} needs a calibrated model, got one without: run zoo calibrate MODEL --data SPEC first"


def resize_output(name: str, values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return an output of one image at (height, width) `size`, of the same type; it may be written to.

    Args:
        name: name of the output.
        values: (H, W), or (K, H, W) of an output with a plane for each class.
        size: height and width in pixels.
    """
    import numpy as np

    from zoo.preprocess import resize_mask

    if values.shape[-2:] == size:
        return values
    if OUTPUTS[name].resize == "bilinear":
        return _interpolated(values, size)
    if values.ndim == 3:
        return np.stack([resize_mask(plane, size) for plane in values])
    return resize_mask(values, size)


def _interpolated(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return (H, W) or (K, H, W) values at another size, interpolated as the networks do their logits."""
    import numpy as np
    import torch

    from zoo.models.decoders.decoder import resize_logits

    planes = torch.from_numpy(values.reshape(1, -1, *values.shape[-2:])).float()
    found = resize_logits(planes, size).numpy().reshape(*values.shape[:-2], *size)
    rounded = np.rint(found) if np.issubdtype(values.dtype, np.integer) else found
    return rounded.astype(values.dtype, copy=False)


def check_unknown(unknown_below: float | None, classes: Classes) -> None:
    """Raise unless masks can have unknown pixels, if they are requested.

    Raises:
        BundleError: a reliability out of range, or more than 255 classes, so that 255 is one of them.
    """
    if unknown_below is None:
        return
    from zoo.classes import IGNORE

    if not 0 <= unknown_below <= 1:
        raise BundleError(f"got unknown_below {unknown_below:g}, expected a reliability from 0 to 1")
    if len(classes) > IGNORE:
        raise BundleError(
            f"unknown pixels are class {IGNORE}, which is one of the model's {len(classes)} classes: write "
            f"the output reliability instead"
        )


def without_unsure(found: Mapping[str, NDArray[Any]], unknown_below: float) -> Mask:
    """Return the mask with `IGNORE` where the reliability is below a value.

    Args:
        found: `mask` and `reliability` by name, (H, W).
        unknown_below: reliability, 0..1.
    """
    import numpy as np

    from zoo.classes import IGNORE

    unsure = found[RELIABILITY] < MAX_VALUE * unknown_below
    mask: Mask = np.where(unsure, IGNORE, found[MASK]).astype(found[MASK].dtype)
    return mask


def draw_output(name: str, values: NDArray[Any], classes: Classes) -> bytes:
    """Return a PNG of the (H, W) values of an output."""
    return OUTPUTS[name].draw(values, classes)


def written_outputs() -> dict[str, str]:
    """Return the file suffix of each output that `zoo predict` can write, by name."""
    return {name: row.suffix for name, row in OUTPUTS.items() if row.suffix}
