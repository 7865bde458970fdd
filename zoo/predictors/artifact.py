"""Metadata of exported files: inside an ONNX file, and in the JSON file beside an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from zoo.bundle.reliability import Calibration
from zoo.classes import Classes, Color
from zoo.errors import BundleError
from zoo.predictors.outputs import Output, mask_dtype, output_of, parse_outputs
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Flavor = Literal["trt", "rtx"]


def _check_outputs(text: str) -> str:
    parse_outputs(text)
    return text


OutputKind = Annotated[str, AfterValidator(_check_outputs)]
"""Names of `zoo.predictors.outputs`, joined by `+`."""

Shape = tuple[int, int, int]
"""Batch, height, width."""

ONNX_NAMES: dict[Precision, str] = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "bf16": "model.bf16.onnx",
    "int8": "model.int8.onnx",
}
"""Names of a bundle's ONNX files."""

TRT_ONNX_NAMES: dict[Precision, str] = {**ONNX_NAMES, "int8": "model.int8.trt.onnx"}
"""Names of the ONNX files that engines are built from: TensorRT needs signed activations, slow on CPUs."""

METADATA_KEY = "zoo"
"""Key in the ONNX model's `metadata_props`."""

INPUT_NAME = "image"
"""(B, H, W, C) of the format of the preprocessing, by default uint8 RGB."""


class ArtifactMetadata(BaseModel):
    """Metadata that make an exported file usable on its own.

    Args:
        names: class names in label order.
        palette: RGB colors in label order.
        preprocessing: resizing of images to the network's size; normalization is part of the file.
        precision: precision of the network's weights and activations.
        output: names of outputs (`zoo.predictors.outputs`) in the file's order, joined by `+`: `mask`
            (B, H, W), `logits` (B, K, H, W), `mask+confidence`, ...
        weights_sha256: SHA-256 of the bundle's `model.safetensors`.
        smallest: smallest (height, width) that the network accepts; None in files of version 0.1.
        calibration: calibration of the output `reliability`, in a file that returns it or logits; None if the
            model is not calibrated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    names: tuple[str, ...]
    palette: tuple[Color, ...]
    preprocessing: Preprocessing
    precision: Precision
    output: OutputKind = "mask"
    weights_sha256: str
    smallest: tuple[int, int] | None = None
    calibration: Calibration | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a missing calibration, so that earlier versions can read the file."""
        found: dict[str, Any] = handler(self)
        if self.calibration is None:
            found.pop("calibration", None)
        return found

    @property
    def classes(self) -> Classes:
        """Return the classes: names and palette."""
        return Classes(self.names, self.palette)

    def blank(self, shape: Shape) -> NDArray[Any]:
        """Return a batch of images of zeros, (B, H, W, C) of the format."""
        return self.preprocessing.format.zeros(shape)

    @property
    def mask_dtype(self) -> str:
        """Return the element type of a mask."""
        return mask_dtype(len(self.names))

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Return the outputs of the artifact, in its order."""
        return tuple(output_of(name, len(self.names)) for name in parse_outputs(self.output))


class Profile(BaseModel):
    """Shapes that an engine accepts: between `min` and `max`, fastest at `opt`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: Shape
    opt: Shape
    max: Shape


class EngineInfo(BaseModel):
    """Origin and target of a TensorRT engine.

    Args:
        metadata: metadata of the ONNX file that it was built from.
        onnx_sha256: SHA-256 of that ONNX file.
        flavor: `trt` (built on and for one GPU) or `rtx` (built for a list of compute capabilities).
        version: version of TensorRT.
        sm: compute capabilities, e.g. 86, 89; empty for `trt`.
        gpu: name of the GPU; empty for `rtx`.
        profile: shapes that it accepts.
        build_seconds: duration of the build.
        bytes: size of the engine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    metadata: ArtifactMetadata
    onnx_sha256: str
    flavor: Flavor
    version: str
    sm: tuple[int, ...] = ()
    gpu: str = ""
    profile: Profile
    build_seconds: float
    bytes: int

    @property
    def target(self) -> str:
        """Return the GPU or compute capabilities that it was built for, as text."""
        return self.gpu or f"SM {', '.join(map(str, self.sm))}"


def parse_metadata(text: str | None, path: Path) -> ArtifactMetadata:
    """Return the metadata of an ONNX file.

    Args:
        text: value of `METADATA_KEY` in the file; None if it has none.
        path: path of the file, for the message.

    Raises:
        BundleError: a file that `zoo export` did not write.
    """
    if text is None:
        raise BundleError(
            f"{path} has no {METADATA_KEY!r} metadata (classes, preprocessing), expected a file made by "
            f"zoo export: export the bundle again"
        )
    try:
        return ArtifactMetadata.model_validate_json(text)
    except ValidationError as error:
        raise BundleError(
            f"{path}: metadata: {_first(error)}: export the bundle again with this version"
        ) from error


def info_path(engine: Path) -> Path:
    """Return the path of the JSON file beside an engine."""
    return engine.with_name(f"{engine.name}.json")


def read_engine_info(engine: Path) -> EngineInfo:
    """Return the contents of the JSON file beside an engine.

    Raises:
        BundleError: the file is missing or of another version.
    """
    path = info_path(engine)
    if not path.is_file():
        raise BundleError(
            f"{engine} has no {path.name} next to it (classes, shapes, target): zoo export --trt writes both"
        )
    try:
        return EngineInfo.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise BundleError(f"{path}: {_first(error)}: build the engine again with this version") from error


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}"
