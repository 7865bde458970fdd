"""Schemas of the server's responses, as shown in the OpenAPI document."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ClassArea(BaseModel):
    """Area of a class in an image."""

    label: int = Field(ge=0, examples=[1])
    name: str = Field(examples=["disk"])
    color: str = Field(pattern="^#[0-9a-f]{6}$", examples=["#800000"])
    pixels: int = Field(ge=1)
    share: float = Field(gt=0, le=1, description="Share of the image's pixels.")


class Runs(BaseModel):
    """Run-length encoding of a mask, row by row from the top left."""

    labels: list[int] = Field(examples=[[0, 1, 0]])
    lengths: list[int] = Field(
        description="Length of each run in pixels; they add up to H x W.", examples=[[2, 3, 1]]
    )


class MaskAnswer(BaseModel):
    """Mask of an image as JSON."""

    model: str
    version: str
    size: tuple[int, int] = Field(description="Height and width of image and mask, in pixels.")
    areas: list[ClassArea] = Field(description="Areas of the classes in the mask, in label order.")
    rle: Runs
    outputs: dict[str, str] = Field(
        default={},
        description="Other outputs that were asked for, by name: H x W values, row by row, of the element "
        "type in `/v2`, in Base64.",
        examples=[{"reliability": "/+3Y"}],
    )


class ClassInfo(BaseModel):
    """Class of a model."""

    label: int
    name: str
    color: str = Field(pattern="^#[0-9a-f]{6}$")


class ModelInfo(BaseModel):
    """Model of this server."""

    name: str
    version: str
    fingerprint: str = Field(description="Digits that change with the files of the model.")
    backend: str = Field(examples=["ort"])
    description: str = Field(examples=["ONNX Runtime 1.31.1 CPUExecutionProvider"])
    reason: str = Field(description="Reason for the selection of this backend.")
    imgsz: tuple[int, int] = Field(description="Height and width of the training crop, in pixels.")
    resize: str = Field(
        description="How images are resized to `imgsz`: fit, stretch or none, as where tiles are cut."
    )
    tile: int | None = Field(
        description="Side of the tiles in which images are predicted; null: whole images."
    )
    overlap: float | None = Field(description="Share of a tile's side that it shares with the next one.")
    timeout: float = Field(description="Time limit of a request, in seconds.")
    mean: list[float] = Field(description="Mean of each channel, images in 0..1.")
    std: list[float]
    channels: int = Field(description="Channels of the images, 3 for RGB.", examples=[3])
    dtype: str = Field(description="Element type of the images.", examples=["uint8"])
    ranges: tuple[tuple[float, float], ...] | None = Field(
        description="Values of each channel that are 0 and 1 for `mean` and `std`; null: those of `dtype`."
    )
    classes: list[ClassInfo]
    output: str = Field(description="Element type of a mask: uint8 or int32.", examples=["uint8"])
    outputs: list[str] = Field(description="Outputs of `/predict` and `/v2`.", examples=[["mask"]])
    max_batch: int = Field(description="Maximum number of images per batch.")
    ready: bool


class Liveness(BaseModel):
    """Response of a live process."""

    alive: bool = True


class Ready(BaseModel):
    """Response when every model has just passed a real inference."""

    ready: bool = True
    models: list[str]


class OipServer(BaseModel):
    """Server metadata of the Open Inference Protocol."""

    name: str
    version: str
    extensions: list[str]


class OipLive(BaseModel):
    """Whether the server is alive."""

    live: bool


class OipReady(BaseModel):
    """Whether the server and all its models are ready."""

    ready: bool


class OipModelReady(BaseModel):
    """Whether a model is ready."""

    name: str
    ready: bool
