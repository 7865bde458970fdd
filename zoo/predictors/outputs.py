"""The table of outputs: what a model can give for each pixel, and all that the other parts must know of it.

An output is one row here: networks, exported graphs, `zoo predict`, the server and Triton read this table.
Another package adds a row by an entry point of the group `zoo.outputs`. The table loads no PyTorch.
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

    from zoo.classes import Classes, Mask

Dim = TypeVar("Dim", int, str)

Dtype = Literal["uint8", "int32", "float32"]
Format = Literal["png", "npy", "json", "overlay"]
"""In which `POST /predict` answers."""

MASK, LOGITS, CONFIDENCE = "mask", "logits", "confidence"
"""Names of the built-in outputs."""

MAX_UINT8_CLASSES = 255


def mask_dtype(num_classes: int) -> Literal["uint8", "int32"]:
    """Return the element type of a mask of this many classes."""
    return "uint8" if num_classes <= MAX_UINT8_CLASSES else "int32"


def grey_png(values: NDArray[np.uint8], classes: Classes) -> bytes:  # noqa: ARG001 - as other drawings
    """Return a grey PNG of (H, W) uint8 values."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class OutputRow:
    """One output.

    Args:
        title: what it is, for help texts.
        compute: from (B, K, H, W) float logits, of half precision in mixed precision, to (B, H, W), or
            (B, K, H, W) with `channels`, by operators of PyTorch that can be exported to ONNX; a cast to
            uint8 must be the last of them, or TensorRT refuses it.
        dtype: element type, or a function that returns it for a number of classes.
        channels: whether there is a plane for each class.
        resize: to the size of the image: `nearest` takes the value of the pixel it came from.
        suffix: of the file that `zoo predict` writes beside the mask; empty if it writes none.
        formats: in which the server answers with it; empty if it is not served.
        draw: PNG of (H, W) values, for files and the server.
    """

    title: str
    compute: Callable[[Tensor], Tensor]
    dtype: Dtype | Callable[[int], Dtype] = "uint8"
    channels: bool = False
    resize: Literal["nearest", "bilinear"] = "nearest"
    suffix: str = ""
    formats: tuple[Format, ...] = ()
    draw: Callable[[NDArray[Any], Classes], bytes] = grey_png


def _mask(logits: Tensor) -> Tensor:
    from zoo.predictors.decision import choose

    return choose(logits)


def _confidence(logits: Tensor) -> Tensor:
    from zoo.predictors.decision import confidence

    return confidence(logits)


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
    },
)


class Output(NamedTuple):
    """What one output of a model of some classes is."""

    name: str
    dtype: Dtype
    channels: tuple[int, ...] = ()
    """(K,) with a plane for each class."""

    def size(self, batch: Dim, height: Dim, width: Dim) -> tuple[int | Dim, ...]:
        """Return its sizes for a batch: of numbers, or of the names of dynamic dimensions."""
        return batch, *self.channels, height, width


def output_of(name: str, num_classes: int) -> Output:
    """Return what an output of the table is for a number of classes."""
    row = OUTPUTS[name]
    dtype = row.dtype(num_classes) if callable(row.dtype) else row.dtype
    return Output(name, dtype, (num_classes,) if row.channels else ())


def parse_outputs(text: str) -> tuple[str, ...]:
    """Return the names in text such as `mask+confidence`.

    Raises:
        ValueError: an unknown or repeated name; neither `mask` nor `logits`, so that there is no mask.
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


def derive(given: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Return outputs by name: those that a model gives, and others from its logits.

    Args:
        given: what the model gives, by name.
        names: of the outputs that are wanted.

    Raises:
        BundleError: one is not given, and neither are logits.
    """
    check_given(tuple(given), names)
    return {name: given[name] if name in given else OUTPUTS[name].compute(given[LOGITS]) for name in names}


def check_given(given: Sequence[str], names: Sequence[str]) -> None:
    """Raise unless outputs can be had from a model that gives some.

    Raises:
        BundleError: one cannot.
    """
    known = derivable(given)
    for name in names:
        if name not in known:
            raise BundleError(
                f"the model returns {', '.join(known)}, got a request for {name!r}: use the bundle, or "
                "export "
                f"again with --output {MASK}+{name}"
            )


def derivable(given: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all outputs that can be had from those that a model gives."""
    return tuple(OUTPUTS) if LOGITS in given else tuple(given)


def resize_output(name: str, values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return an output of one image at (height, width) `size`, of the same type.

    Args:
        name: of the output.
        values: (H, W), or (K, H, W) of an output with a plane for each class.
        size: height and width in pixels.
    """
    import numpy as np
    from PIL import Image

    if values.shape[-2:] == size:
        return values
    if values.ndim == 3:
        return np.stack([resize_output(name, plane, size) for plane in values])
    how = Image.Resampling.NEAREST if OUTPUTS[name].resize == "nearest" else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(values).resize((size[1], size[0]), how))  # may be written to


def draw_output(name: str, values: NDArray[Any], classes: Classes) -> bytes:
    """Return a PNG of the (H, W) values of an output."""
    return OUTPUTS[name].draw(values, classes)


def written_outputs() -> dict[str, str]:
    """Return the suffix of the file of each output that `zoo predict` can write, by name."""
    return {name: row.suffix for name, row in OUTPUTS.items() if row.suffix}
