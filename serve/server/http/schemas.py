"""What the routes of the server answer, as the OpenAPI document shows it."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Area(BaseModel):
    """How much of an image a class has."""

    label: int = Field(ge=0, examples=[1])
    name: str = Field(examples=["disk"])
    color: str = Field(pattern="^#[0-9a-f]{6}$", examples=["#800000"])
    pixels: int = Field(ge=1)
    share: float = Field(gt=0, le=1, description="Of the image's pixels.")


class Runs(BaseModel):
    """A mask as runs of one label each, row by row from the top left."""

    labels: list[int] = Field(examples=[[0, 1, 0]])
    lengths: list[int] = Field(description="In pixels; they add up to H x W.", examples=[[2, 3, 1]])


class MaskAnswer(BaseModel):
    """The mask of an image."""

    model: str
    version: str
    size: tuple[int, int] = Field(description="Height and width of image and mask, in pixels.")
    areas: list[Area] = Field(description="Of the classes that are there, in label order.")
    rle: Runs


class ClassInfo(BaseModel):
    """One class of a model."""

    label: int
    name: str
    color: str = Field(pattern="^#[0-9a-f]{6}$")


class ModelInfo(BaseModel):
    """One model of this server."""

    name: str
    version: str
    backend: str = Field(examples=["ort"])
    description: str = Field(examples=["ONNX Runtime 1.31.1 CPUExecutionProvider"])
    reason: str = Field(description="Why this backend was chosen.")
    imgsz: tuple[int, int] = Field(description="Height and width of the training crop, in pixels.")
    resize: str = Field(description="How an image is brought to `imgsz`: fit, stretch or none.")
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    classes: list[ClassInfo]
    output: str = Field(description="Element type of a mask: uint8 or int32.", examples=["uint8"])
    outputs: list[str] = Field(description="What `/predict` and `/v2` give.", examples=[["mask"]])
    max_batch: int = Field(description="Images that run together.")
    ready: bool


class Alive(BaseModel):
    """The process answers."""

    alive: bool = True


class Ready(BaseModel):
    """Every model has just answered a real inference."""

    ready: bool = True
    models: list[str]


class Tensor(BaseModel):
    """Name, type and shape of an input or output; -1 stands for any size."""

    name: str
    datatype: str = Field(examples=["UINT8"])
    shape: list[int]


class OipServer(BaseModel):
    """The server, in the words of the Open Inference Protocol."""

    name: str
    version: str
    extensions: list[str]


class OipLive(BaseModel):
    """Whether the server is alive."""

    live: bool


class OipReady(BaseModel):
    """Whether the server, all its models too, is ready."""

    ready: bool


class OipModelReady(BaseModel):
    """Whether a model is ready."""

    name: str
    ready: bool


class OipModel(BaseModel):
    """A model, in the words of the Open Inference Protocol."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]
