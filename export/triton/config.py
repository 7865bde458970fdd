"""`config.pbtxt`, Triton's configuration of a model, written with Triton's own protobuf."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from google.protobuf import json_format, text_format

from zoo import __version__
from zoo.bundle.manifest import sha256
from zoo.errors import ExportError
from zoo.predictors.artifact import INPUT_NAME
from zoo.predictors.outputs import MASK

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.predictors.artifact import ArtifactMetadata
    from zoo.predictors.outputs import Output

CONFIG_NAME = "config.pbtxt"
LABELS_NAME = "labels.txt"
PROTOBUF = "tritonclient.grpc.model_config_pb2"

MARK = "zoo"
"""Parameter that marks models written by `zoo export`."""

TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float32": "TYPE_FP32"}
DYNAMIC = -1


class Flavor(NamedTuple):
    """One way to run a model in Triton."""

    platform: str
    """Triton's name of framework and format; empty for its Python backend."""
    backend: str
    kind: Literal["KIND_CPU", "KIND_GPU"]
    """Kind of the device."""
    file: str
    """File name that the backend expects."""
    delay_us: int
    """Time that a request waits for a batch; batches gain nothing on a CPU."""


FLAVORS = {
    "onnx": Flavor("onnxruntime_onnx", "onnxruntime", "KIND_GPU", "model.onnx", 2000),
    "plan": Flavor("tensorrt_plan", "tensorrt", "KIND_GPU", "model.plan", 2000),
    "python": Flavor("", "python", "KIND_CPU", "model.onnx", 0),
}


class Served(NamedTuple):
    """One model of a repository."""

    name: str
    flavor: Flavor
    artifact: Path
    metadata: ArtifactMetadata
    batch: tuple[int, int, int]
    """Minimum, optimal and maximum batch."""
    facts: dict[str, str]
    """Parameters for clients besides the metadata."""


def check_protobuf() -> None:
    """Check that configurations can be written.

    Raises:
        ExportError: Triton's protobuf is not installed.
    """
    _new_config()


def config_text(model: Served) -> str:
    """Return the contents of `config.pbtxt`.

    Raises:
        ExportError: Triton's protobuf is not installed, or refuses a field or value.
    """
    try:
        config = json_format.ParseDict(_config(model), _new_config())
    except json_format.ParseError as error:
        raise ExportError(
            f"Triton's protobuf refuses the configuration of {model.name} ({_line(error)}): "
            f"pip install --upgrade 'semiseg-zoo[triton]'"
        ) from error
    text: str = text_format.MessageToString(config, as_utf8=True)
    assert parse_config(text) == config
    return text


def parse_config(text: str) -> Any:
    """Return the `ModelConfig` of a `config.pbtxt`.

    Raises:
        ExportError: the text is not a configuration, or Triton's protobuf is not installed.
    """
    try:
        return text_format.Parse(text, _new_config())
    except text_format.ParseError as error:
        raise ExportError(f"{CONFIG_NAME} is not a Triton configuration: {_line(error)}") from error


def _new_config() -> Any:
    try:
        return importlib.import_module(PROTOBUF).ModelConfig()
    except (ImportError, RuntimeError) as error:  # RuntimeError: its gRPC extra is missing
        raise ExportError(
            f"--triton needs Triton's protobuf ({_line(error)}): pip install 'semiseg-zoo[triton]'"
        ) from error


def _config(model: Served) -> dict[str, Any]:
    flavor, metadata = model.flavor, model.metadata
    largest = model.batch[2]
    image = {"name": INPUT_NAME, "data_type": "TYPE_UINT8", "dims": [DYNAMIC, DYNAMIC, 3]}
    config = {
        "name": model.name,
        "platform": flavor.platform,
        "backend": flavor.backend,
        "max_batch_size": largest,
        "input": [image],
        "output": [_tensor(output) for output in metadata.outputs],
        "instance_group": [{"kind": flavor.kind, "count": 1}],
        "version_policy": {"latest": {"num_versions": 1}},
        "parameters": {key: {"string_value": value} for key, value in _parameters(model).items()},
        "model_warmup": [_warmup(size, metadata) for size in sorted({model.batch[0], largest})],
    }
    if largest > 1:
        config["dynamic_batching"] = {
            "preferred_batch_size": sorted({*model.batch[1:]} - {1}),
            "max_queue_delay_microseconds": flavor.delay_us,
        }
    return config


def _tensor(output: Output) -> dict[str, Any]:
    """Return the description of an output without its batch dimension, which `max_batch_size` implies."""
    dims = output.size(DYNAMIC, DYNAMIC, DYNAMIC)[1:]
    labels = {"label_filename": LABELS_NAME} if output.name == MASK or output.channels else {}
    return {"name": output.name, "data_type": TYPES[output.dtype], "dims": list(dims), **labels}


def _warmup(batch: int, metadata: ArtifactMetadata) -> dict[str, Any]:
    """Return a warm-up request of black images at the network's size."""
    dims = [*metadata.preprocessing.imgsz, 3]
    image = {"data_type": "TYPE_UINT8", "dims": dims, "zero_data": True}
    return {"name": f"batch of {batch}", "batch_size": batch, "inputs": {INPUT_NAME: image}}


def _parameters(model: Served) -> dict[str, str]:
    """Return what clients need to prepare images and read masks, and the artifact's origin."""
    metadata = model.metadata
    return {
        MARK: __version__,
        "classes": json.dumps(metadata.names, ensure_ascii=False),
        "palette": json.dumps(metadata.palette),
        "imgsz": json.dumps(metadata.preprocessing.imgsz),
        "resize": metadata.preprocessing.resize,
        "precision": metadata.precision,
        "artifact_sha256": sha256(model.artifact),
        "weights_sha256": metadata.weights_sha256,
        **model.facts,
    }


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
