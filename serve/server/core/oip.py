"""Requests and answers of the Open Inference Protocol, checked; knows neither HTTP nor gRPC.

Binary tensors: `zoo.predictors.remote.oip`.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zoo.image_format import RGB, check_finite
from zoo.predictors.artifact import INPUT_NAME
from zoo.predictors.outputs import MASK, output_of
from zoo.predictors.remote.oip import DATATYPES, DTYPES, JSON_LENGTH, described
from zoo.serve.server.core.errors import BadRequestError, TooLargeError
from zoo.serve.server.core.unknown import DESCRIPTION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from zoo.image_format import ImageFormat
    from zoo.serve.server.core.model import Model

NEAR = 0.8
"""Similarity to a known parameter from which another is a misspelling; Triton has parameters of its own."""

MAX_JSON_BYTES = 16_000_000
"""Room for the numbers of 1024 x 1024 pixels; reading more would hold up all other requests."""


class InputParameters(BaseModel):
    """Parameters of an input tensor."""

    binary_data_size: int | None = Field(None, ge=0, description="Bytes of the tensor after the JSON.")


class InputTensor(BaseModel):
    """An input: images, in `data` or after the JSON."""

    name: str = Field(examples=[INPUT_NAME])
    datatype: str = Field(examples=["UINT8"])
    shape: list[int] = Field(max_length=8, description="(B, H, W, 3)", examples=[[1, 2, 1, 3]])
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = Field(
        None, description="Values 0..255, row by row, flat or nested.", examples=[[0, 127, 255, 1, 2, 3]]
    )


class OutputParameters(BaseModel):
    """Parameters of a requested output."""

    binary_data: bool | None = None


class OutputRequest(BaseModel):
    """Requested output."""

    name: str = Field(examples=[MASK])
    parameters: OutputParameters = OutputParameters()


class RequestParameters(BaseModel):
    """Parameters of a request; unknown ones are ignored, unless they are like a known one."""

    model_config = ConfigDict(extra="allow")

    binary_data_output: bool = Field(False, description="Whether outputs come as binary tensors.")
    unknown_below: float | None = Field(None, ge=0, le=1, description=DESCRIPTION)


class InferRequest(BaseModel):
    """A request of inference."""

    id: str | None = None
    inputs: list[InputTensor] = Field(min_length=1, max_length=8)
    outputs: list[OutputRequest] | None = Field(None, max_length=8)
    parameters: RequestParameters = RequestParameters()


class OutputTensor(BaseModel):
    """An output, in `data` or after the JSON."""

    name: str
    datatype: str
    shape: list[int] = Field(description="(B, H, W)")
    parameters: dict[str, int] | None = None
    data: list[int] | list[float] | None = None


class InferAnswer(BaseModel):
    """The answer to a request of inference."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class TensorInfo(BaseModel):
    """Name, type and shape of an input or output; -1 stands for any size."""

    name: str
    datatype: str = Field(examples=["UINT8"])
    shape: list[int]


class ModelMetadata(BaseModel):
    """What the protocol says of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


class Asked(NamedTuple):
    """A request that was understood."""

    images: NDArray[Any]
    """(B, H, W, 3)"""
    id: str | None
    binary: dict[str, bool]
    """Whether an output is binary in the answer, by the names of those that are asked for."""
    unknown_below: float | None = None
    """Reliability below which a pixel of the mask is 255; None for no such pixel."""


class Rendered(NamedTuple):
    """The body of an answer."""

    body: bytes
    json_length: int | None
    """None if there is nothing after the JSON."""


def metadata(model: Model) -> ModelMetadata:
    """Return what the protocol says of a model."""
    outputs = [output_of(name, len(model.classes)) for name in model.outputs]
    format_ = model.preprocessing.format
    return ModelMetadata(
        name=model.name,
        versions=[model.version],
        platform=f"zoo_{model.backend}",
        inputs=[
            TensorInfo(
                name=INPUT_NAME, datatype=DATATYPES[format_.dtype], shape=[-1, -1, -1, format_.channels]
            )
        ],
        outputs=[
            TensorInfo(name=each.name, datatype=DATATYPES[each.dtype], shape=list(each.size(-1, -1, -1)))
            for each in outputs
        ],
    )


def parse(
    body: bytes,
    json_length: int | None,
    outputs: Sequence[str] = (MASK,),
    format_: ImageFormat = RGB,
) -> Asked:
    """Return a parsed inference request.

    Args:
        body: JSON, and binary tensors after it.
        json_length: bytes of JSON; None if it is all.
        outputs: outputs of the model; a request that names none gets the mask.
        format_: format of the images that the model takes.

    Raises:
        BadRequestError: not such a request, not of one input `image`, or of an unknown output.
        TooLargeError: more JSON than `MAX_JSON_BYTES`.
    """
    end = len(body) if json_length is None else json_length
    if not 0 <= end <= len(body):
        raise BadRequestError(
            f"{JSON_LENGTH} is {end}, expected 0 to {len(body)}, the bytes of the body: count the JSON only"
        )
    if end > MAX_JSON_BYTES:
        raise TooLargeError(
            f"got {end} bytes of JSON, expected at most {MAX_JSON_BYTES}: send a binary tensor"
        )
    request = request_of(body[:end])
    tensor = only_input(request, outputs, format_)
    images = _from_binary(tensor, body[end:]) if tensor.data is None else _from_json(tensor, len(body) - end)
    return Asked(images, request.id, wants_binary(request), request.parameters.unknown_below)


def request_of(content: bytes | dict[str, Any]) -> InferRequest:
    """Return a request from its JSON or its fields.

    Raises:
        BadRequestError: not such a request, or a misspelled parameter.
    """
    try:
        if isinstance(content, bytes):
            request = InferRequest.model_validate_json(content)
        else:
            request = InferRequest.model_validate(content)
    except ValidationError as error:
        raise BadRequestError(_first(error)) from error
    for name in request.parameters.model_extra or ():
        if near := get_close_matches(name, RequestParameters.model_fields, n=1, cutoff=NEAR):
            raise BadRequestError(f"got parameter {name[:50]!r}, expected {near[0]!r}: use that name")
    return request


def only_input(request: InferRequest, outputs: Sequence[str], format_: ImageFormat = RGB) -> InputTensor:
    """Return the input of a request, after a check of its name, type and shape, and of the requested outputs.

    Raises:
        BadRequestError: not one input `image`, or an unknown output.
    """
    if len(request.inputs) != 1:
        raise BadRequestError(f"got {len(request.inputs)} inputs, expected one, {INPUT_NAME!r}: send that")
    _check_outputs(request, outputs)
    _check_shape(request.inputs[0], format_)
    return request.inputs[0]


def images_of_bytes(tensor: InputTensor, data: bytes) -> NDArray[Any]:
    """Return the images of an input, (B, H, W, C) of its type, from its bytes.

    Raises:
        BadRequestError: another number of bytes.
        InvalidImageError: values that are not finite.
    """
    dtype = DTYPES[tensor.datatype]
    if len(data) != (expected := _count(tensor) * dtype.itemsize):
        raise BadRequestError(
            f"got {len(data)} bytes of {tensor.name!r}, expected {expected} of shape {tensor.shape}: send "
            f"{dtype.name} values, row by row"
        )
    images = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False).reshape(tensor.shape)
    check_finite(images, INPUT_NAME)
    return images


def images_of_values(tensor: InputTensor, values: NDArray[Any]) -> NDArray[Any]:
    """Return the images of an input, (B, H, W, C) of its type, from numbers.

    Raises:
        BadRequestError: numbers that the type does not have, or another number of them.
        InvalidImageError: values that are not finite.
    """
    dtype = DTYPES[tensor.datatype].newbyteorder("=")
    whole = None if dtype.kind == "f" else np.iinfo(dtype)
    words, span = ("numbers", "them") if whole is None else ("integers", f"{whole.min}..{whole.max}")
    if values.dtype.kind not in ("iuf" if whole is None else "iu") or values.size != _count(tensor):
        raise BadRequestError(
            f"got {values.size} values of {values.dtype.name}, expected {_count(tensor)} {words} of shape "
            f"{tensor.shape}: send {span}, row by row"
        )
    if whole is not None and (values.min() < whole.min or values.max() > whole.max):
        raise BadRequestError(
            f"got values {values.min()}..{values.max()}, expected {span}: send {tensor.datatype}"
        )
    images = values.astype(dtype).reshape(tensor.shape)
    check_finite(images, INPUT_NAME)
    return images


def wants_binary(request: InferRequest) -> dict[str, bool]:
    """Return whether each output is asked for in binary, by itself or for all of them."""
    default = request.parameters.binary_data_output
    if not request.outputs:
        return {MASK: default}
    own = {output.name: output.parameters.binary_data for output in request.outputs}
    return {name: default if binary is None else binary for name, binary in own.items()}


def render(asked: Asked, outputs: Mapping[str, NDArray[Any]], model: str, version: str) -> Rendered:
    """Return the answer with the outputs, each (B, H, W) or (B, K, H, W), in their order."""
    tensors, binary = [], b""
    for name, values in outputs.items():
        tensor = OutputTensor(**described(name, values))
        if asked.binary[name]:
            binary += np.ascontiguousarray(values).tobytes()
        else:
            tensor.parameters = None
            tensor.data = values.ravel().tolist()  # not validated: a list of millions
        tensors.append(tensor)
    answer = InferAnswer(model_name=model, model_version=version, id=asked.id, outputs=tensors)
    text = answer.model_dump_json(exclude_none=True).encode()
    return Rendered(text + binary, len(text) if any(asked.binary.values()) else None)


def _check_outputs(request: InferRequest, outputs: Sequence[str]) -> None:
    for output in request.outputs or ():
        if output.name not in outputs:
            raise BadRequestError(
                f"got output {output.name[:50]!r}, expected {' or '.join(map(repr, outputs))}: ask for that, "
                f"or for none"
            )


def _check_shape(tensor: InputTensor, format_: ImageFormat) -> None:
    datatype, channels = DATATYPES[format_.dtype], format_.channels
    if (tensor.name, tensor.datatype) != (INPUT_NAME, datatype):
        raise BadRequestError(
            f"got input {tensor.name[:50]!r} of {tensor.datatype[:20]!r}, expected {INPUT_NAME!r} of "
            f"{datatype!r}: see the metadata of the model"
        )
    if len(tensor.shape) != 4 or tensor.shape[3] != channels or min(tensor.shape) < 1:
        images = "RGB images" if format_.is_rgb else f"images of {format_}"
        raise BadRequestError(
            f"got shape {tensor.shape}, expected [batch, height, width, {channels}], all at least 1: send "
            f"{images}"
        )


def _from_binary(tensor: InputTensor, data: bytes) -> NDArray[Any]:
    size = tensor.parameters.binary_data_size
    if size is None:
        raise BadRequestError(
            f"input {tensor.name!r} has neither data nor parameters.binary_data_size: send either"
        )
    if size != len(data):
        raise BadRequestError(
            f"got binary_data_size {size} and {len(data)} bytes after the JSON, expected as many: count them"
        )
    return images_of_bytes(tensor, data)


def _from_json(tensor: InputTensor, rest: int) -> NDArray[Any]:
    if rest or tensor.parameters.binary_data_size is not None:
        raise BadRequestError(f"input {tensor.name!r} has data and binary data: send one of them")
    try:
        values = np.asarray(tensor.data)
    except ValueError as error:
        raise BadRequestError("data are nested unevenly: send them flat, or in the shape") from error
    if values.ndim > 1 and list(values.shape) != tensor.shape:
        raise BadRequestError(
            f"got data nested as {list(values.shape)}, expected {tensor.shape}: send them flat, or nested so"
        )
    return images_of_values(tensor, values)


def _count(tensor: InputTensor) -> int:
    count = 1
    for size in tensor.shape:
        count *= size  # of Python: a product of sizes from outside overflows int64
    return count


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where or 'the JSON'}: {first['msg']}: see /docs"
