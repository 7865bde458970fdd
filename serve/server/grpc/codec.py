"""Messages of the Open Inference Protocol, version 2, in the protobuf form that `tritonclient` ships.

Tensors are bytes (`raw_input_contents`) or numbers (`contents`); a response has the form of its request.
"""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import DecodeError, Message
from tritonclient.grpc import service_pb2 as pb

from zoo.predictors.remote.oip import DATATYPES
from zoo.serve.server.core import oip
from zoo.serve.server.core.answer import Decoded
from zoo.serve.server.core.errors import BadRequestError, TooLargeError
from zoo.serve.server.core.unknown import computed, with_unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from zoo.serve.server.core.model import Model
    from zoo.serve.server.core.runner import Values

SERVICE = "inference.GRPCInferenceService"

CONTENTS = {
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "INT32": "int_contents",
    "FP32": "fp32_contents",
}
"""Field of the numbers of each datatype."""

MAX_VALUES = 3 * 1024 * 1024
"""Room for the numbers of 1024 x 1024 pixels; reading more would hold up all other requests."""


def parse(kind: Any, body: bytes) -> Any:
    """Return a message.

    Args:
        kind: its class.
        body: serialized message.

    Raises:
        BadRequestError: not such a message.
    """
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise BadRequestError(
            f"got {len(body)} bytes, expected a {kind.DESCRIPTOR.name}: send one"
        ) from error


def server_metadata() -> bytes:
    """Return what the protocol says of the server."""
    return serialized(pb.ServerMetadataResponse(name="zoo", version=version_of("semiseg-zoo")))


def model_metadata(model: Model) -> bytes:
    """Return what the protocol says of a model."""
    return serialized(pb.ModelMetadataResponse(**oip.metadata(model).model_dump()))


def serialized(message: Message) -> bytes:
    """Return a message as bytes."""
    return bytes(message.SerializeToString())


def decoder(model: Model) -> Callable[[Any], Decoded[bytes]]:
    """Return the function that decodes a `ModelInferRequest`."""

    def decoded(message: Any) -> Decoded[bytes]:
        request = oip.request_of(
            {
                "id": message.id,
                "inputs": [_fields(tensor, "name", "datatype", "shape") for tensor in message.inputs],
                "outputs": [_fields(output, "name") for output in message.outputs] or None,
                "parameters": _parameters(message),
            }
        )
        tensor = oip.only_input(request, model.outputs, model.preprocessing.format)
        raw = bool(message.raw_input_contents)
        images = _from_bytes(tensor, message) if raw else _from_values(tensor, message.inputs[0].contents)

        outputs = tuple(oip.wants_binary(request))
        unknown_below = request.parameters.unknown_below
        needed = computed(model, outputs, unknown_below)

        def encoded(found: Sequence[Values]) -> bytes:
            response = pb.ModelInferResponse(
                id=message.id, model_name=model.name, model_version=model.version
            )
            final = with_unknown(found, unknown_below)
            for name in outputs:
                _add(response, name, np.stack([values[name] for values in final]), raw=raw)
            return serialized(response)

        return Decoded(images, needed, encoded, images.nbytes)

    return decoded


def _fields(message: Message, *names: str) -> dict[str, Any]:
    found = {name: getattr(message, name) for name in names}
    return {name: value if isinstance(value, str) else list(value) for name, value in found.items()}


def _parameters(message: Any) -> dict[str, Any]:
    """Return the parameters of a request; None for one without a value."""
    fields = {name: value.WhichOneof("parameter_choice") for name, value in message.parameters.items()}
    return {name: field and getattr(message.parameters[name], field) for name, field in fields.items()}


def _from_bytes(tensor: oip.InputTensor, message: Any) -> NDArray[Any]:
    if len(message.raw_input_contents) != 1 or message.inputs[0].HasField("contents"):
        raise BadRequestError(
            f"got {len(message.raw_input_contents)} raw_input_contents and 1 input, expected one of each and "
            f"no contents: send one of them"
        )
    return oip.images_of_bytes(tensor, message.raw_input_contents[0])


def _from_values(tensor: oip.InputTensor, contents: Any) -> NDArray[Any]:
    field = CONTENTS[tensor.datatype]
    others = [each.name for each, _ in contents.ListFields() if each.name != field]
    if others:
        raise BadRequestError(f"got {others[0]} of {tensor.datatype}, expected {field}: send that")
    values = getattr(contents, field)
    if len(values) > MAX_VALUES:
        raise TooLargeError(
            f"got {len(values)} values, expected at most {MAX_VALUES}: send raw_input_contents"
        )
    return oip.images_of_values(
        tensor, np.array(values, np.float32 if tensor.datatype == "FP32" else np.uint32)
    )


def _add(response: Any, name: str, values: NDArray[Any], *, raw: bool) -> None:
    """Add an output to a response."""
    datatype = DATATYPES[values.dtype.name]
    output = response.outputs.add(name=name, datatype=datatype, shape=values.shape)
    if raw:
        response.raw_output_contents.append(np.ascontiguousarray(values).tobytes())
    else:
        getattr(output.contents, CONTENTS[datatype]).extend(values.ravel().tolist())
