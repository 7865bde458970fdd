"""Model for Triton's Python backend that runs an ONNX file with ONNX Runtime.

`zoo export --triton` copies this file to `1/model.py`, next to `model.onnx`. It runs in the server's Python,
which needs numpy and onnxruntime but not `zoo`; `triton_python_backend_utils` comes with the server.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import triton_python_backend_utils as triton  # type: ignore[import-not-found]

PROVIDERS = {"CPU": "CPUExecutionProvider", "GPU": "CUDAExecutionProvider"}
"""Execution providers by kind of instance group in `config.pbtxt`."""
CPUINFO = Path("/proc/cpuinfo")


class TritonPythonModel:
    """Model class that Triton instantiates, one object per model instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the ONNX file on the device of the instance group, without a fallback.

        Args:
            args: Triton's arguments: the configuration as JSON, folder and version of the model, kind and
                number of the device.

        Raises:
            TritonModelException: ONNX Runtime cannot use this device.
        """
        config = json.loads(args["model_config"])
        self.input: str = config["input"][0]["name"]
        self.outputs: list[str] = [output["name"] for output in config["output"]]
        kind = args["model_instance_kind"]
        provider = PROVIDERS[kind]
        options = {"device_id": args["model_instance_device_id"]} if kind == "GPU" else {}
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        session = onnxruntime.SessionOptions()
        if "vnni" not in CPUINFO.read_text():  # without VNNI fast sums of int8 products overflow
            session.add_session_config_entry("session.x64quantprecision", "1")
        self.session = onnxruntime.InferenceSession(path, session, providers=[(provider, options)])
        if provider not in self.session.get_providers():  # it falls back to the CPU silently
            raise triton.TritonModelException(
                f"ONNX Runtime {onnxruntime.__version__} cannot use {provider}, got "
                f"{', '.join(self.session.get_providers())}: install onnxruntime-gpu and its CUDA libraries, "
                f"or set KIND_CPU in config.pbtxt"
            )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run requests as one batch and return a response for each.

        Triton batches only requests with images of the same size; an error is the response to all of them.

        Args:
            requests: requests with (b, h, w, 3) uint8 images each.
        """
        batches = [triton.get_input_tensor_by_name(request, self.input).as_numpy() for request in requests]
        shape = batches[0].shape
        if 0 in shape:
            error = triton.TritonError(
                f"got images of shape {shape}, expected at least one pixel", triton.TritonError.INVALID_ARG
            )
            return [triton.InferenceResponse(error=error) for _ in requests]
        values = self.session.run(self.outputs, {self.input: np.concatenate(batches)})
        ends = np.cumsum([len(batch) for batch in batches])
        return [
            triton.InferenceResponse(
                [
                    triton.Tensor(name, value[end - len(batch) : end])
                    for name, value in zip(self.outputs, values, strict=True)
                ]
            )
            for batch, end in zip(batches, ends, strict=True)
        ]
