"""Codec of binary tensors in the Open Inference Protocol (REST, version 2), for server and clients.

Source: https://github.com/open-inference/open-inference-protocol and Triton's "binary tensor data extension":
a body consists of JSON, whose length is in a header, and the tensors.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

JSON_LENGTH = "Inference-Header-Content-Length"
"""Header with the number of JSON bytes before the binary tensors."""

DATATYPES = {"uint8": "UINT8", "uint16": "UINT16", "int32": "INT32", "float32": "FP32"}
"""Names of NumPy's element types in the protocol."""

DTYPES = {datatype: np.dtype(name).newbyteorder("<") for name, datatype in DATATYPES.items()}


class Message(NamedTuple):
    """Body, and the length of its JSON part."""

    body: bytes
    json_length: int

    @property
    def headers(self) -> dict[str, str]:
        """Return the HTTP headers of the body."""
        return {JSON_LENGTH: str(self.json_length), "Content-Type": "application/octet-stream"}


def described(name: str, values: NDArray[Any]) -> dict[str, Any]:
    """Return the JSON description of a binary tensor."""
    return {
        "name": name,
        "datatype": DATATYPES[values.dtype.name],
        "shape": list(values.shape),
        "parameters": {"binary_data_size": values.nbytes},
    }


def infer_request(name: str, images: NDArray[Any], outputs: Sequence[str]) -> Message:
    """Return a request for binary outputs.

    Args:
        name: name of the model's input.
        images: (B, H, W, C) of the format of the model.
        outputs: names of the outputs.
    """
    asked = [{"name": output, "parameters": {"binary_data": True}} for output in outputs]
    text = json.dumps({"inputs": [described(name, images)], "outputs": asked}).encode()
    return Message(text + images.tobytes(), len(text))


def tensors_of(message: Message) -> dict[str, NDArray[Any]]:
    """Return the binary outputs of a response, by name.

    Raises:
        ValueError, KeyError, TypeError: an invalid response.
    """
    found, start = {}, message.json_length
    for tensor in json.loads(message.body[:start])["outputs"]:
        end = start + tensor["parameters"]["binary_data_size"]
        values = np.frombuffer(message.body[start:end], DTYPES[tensor["datatype"]])
        found[tensor["name"]] = values.reshape(tensor["shape"])
        start = end
    if start != len(message.body):
        raise ValueError(f"{len(message.body)} bytes, not {start}")
    return found
