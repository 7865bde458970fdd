"""What an exported file says about itself: ONNX in its metadata, an engine in the JSON file beside it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from zoo.classes import Classes, Color
from zoo.errors import BundleError
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

Precision = Literal["fp32", "fp16"]
OutputKind = Literal["mask", "logits"]
Flavor = Literal["trt", "rtx"]
Shape = tuple[int, int, int]
"""Batch, height, width."""

METADATA_KEY = "zoo"
"""Of the ONNX model's `metadata_props`."""

INPUT_NAME = "image"
"""(B, H, W, 3) uint8 RGB."""

MAX_UINT8_CLASSES = 255


class ArtifactMetadata(BaseModel):
    """All that is needed to predict with an exported file alone.

    Args:
        names: class names in label order.
        palette: RGB colours in label order.
        preprocessing: what brings an image to the network's size; the normalisation is part of the file.
        precision: of the network's weights and activations.
        output: `mask` (B, H, W) or `logits` (B, K, H, W).
        weights_sha256: of the bundle's `model.safetensors`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    names: tuple[str, ...]
    palette: tuple[Color, ...]
    preprocessing: Preprocessing
    precision: Precision
    output: OutputKind = "mask"
    weights_sha256: str

    @property
    def classes(self) -> Classes:
        """Return names and palette as one value."""
        return Classes(self.names, self.palette)

    @property
    def mask_dtype(self) -> str:
        """Return the element type of a mask."""
        return "uint8" if len(self.names) <= MAX_UINT8_CLASSES else "int32"

    @property
    def output_dtype(self) -> str:
        """Return the element type of the output."""
        return {"mask": self.mask_dtype, "logits": "float32"}[self.output]


class Profile(BaseModel):
    """The shapes that an engine takes: between `min` and `max`, fastest at `opt`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: Shape
    opt: Shape
    max: Shape


class EngineInfo(BaseModel):
    """What a TensorRT engine was built from and for.

    Args:
        metadata: of the ONNX file it was built from.
        onnx_sha256: of that file.
        flavor: `trt` (built on and for one GPU) or `rtx` (built for a list of compute capabilities).
        version: of TensorRT.
        sm: compute capabilities, e.g. 86, 89; empty for `trt`.
        gpu: name of the GPU; empty for `rtx`.
        profile: the shapes it takes.
        build_seconds: how long the build took.
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
        """Return what it was built for, for people."""
        return self.gpu or f"SM {', '.join(map(str, self.sm))}"


def parse_metadata(text: str | None, path: Path) -> ArtifactMetadata:
    """Return the metadata of an ONNX file.

    Args:
        text: what the file holds under `METADATA_KEY`, None if nothing.
        path: of the file, for the message.

    Raises:
        BundleError: not a file that `zoo export` made.
    """
    if text is None:
        raise BundleError(
            f"{path} holds no {METADATA_KEY!r} metadata (classes, preprocessing), expected a file made by "
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
    """Return what the JSON file beside an engine says.

    Raises:
        BundleError: no such file, or not one of this version.
    """
    path = info_path(engine)
    if not path.is_file():
        raise BundleError(
            f"{engine} has no {path.name} beside it (classes, shapes, target): zoo export --trt makes both"
        )
    try:
        return EngineInfo.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise BundleError(f"{path}: {_first(error)}: build the engine again with this version") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}"
