"""An ONNX file run by ONNX Runtime, on the CPU or an NVIDIA GPU."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from onnxruntime.capi import onnxruntime_pybind11_state  # type: ignore[import-untyped]

from zoo.errors import BundleError
from zoo.predictors.artifact import INPUT_NAME, METADATA_KEY, parse_metadata
from zoo.predictors.base import Predictor

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
WARNING, FATAL = 2, 4  # log levels; FATAL leaves reporting to us: errors come as exceptions

ORT_ERRORS: tuple[type[Exception], ...] = tuple(  # they share no base of their own
    value
    for value in vars(onnxruntime_pybind11_state).values()
    if isinstance(value, type) and issubclass(value, Exception)
)


class OrtPredictor(Predictor):
    """An ONNX file that `zoo export` made.

    Args:
        path: of the file; the bundle is not needed.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: of the CPU; None for one on each core.

    Raises:
        BundleError: not such a file, or the device cannot be had.
    """

    backend = "ort"

    def __init__(self, path: Path, device: str = "cpu", threads: int | None = None) -> None:
        if not path.is_file():
            raise BundleError(f"{path} does not exist, expected an ONNX file: zoo export --onnx makes one")
        self.path = path
        self.provider, self.session = _open(path, device, threads)
        custom = self.session.get_modelmeta().custom_metadata_map
        self.metadata = parse_metadata(custom.get(METADATA_KEY), path)
        super().__init__(self.metadata.classes, self.metadata.preprocessing)

    @property
    def description(self) -> str:
        """Return ONNX Runtime's version and the provider that is active."""
        return f"ONNX Runtime {onnxruntime.__version__} {self.provider}"

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the masks of a batch at its own size.

        Raises:
            BundleError: the file does not take this shape.
        """
        output: NDArray[np.uint8] = self._run(images)
        if self.metadata.output == "mask":
            return output
        mask: NDArray[np.uint8] = output.argmax(axis=1).astype(self.metadata.mask_dtype)
        return mask

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Return (B, K, H, W) float32 class scores of a batch, or None if the file gives masks."""
        return self._run(images) if self.metadata.output == "logits" else None

    def _run(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        try:
            output: NDArray[Any] = self.session.run(None, {INPUT_NAME: np.ascontiguousarray(images)})[0]
        except ORT_ERRORS as error:
            raise BundleError(
                f"ONNX Runtime failed on images of shape {tuple(images.shape)}: {_first_line(error)}"
            ) from error
        return output


def _open(path: Path, device: str, threads: int | None) -> tuple[str, onnxruntime.InferenceSession]:
    """Return the execution provider of a device and a session that runs on it."""
    kind, _, index = device.partition(":")
    if kind not in PROVIDERS or (index and not index.isdigit()):
        raise BundleError(f"got device {device!r}, expected one of {', '.join(PROVIDERS)}")
    provider = PROVIDERS[kind]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    missing = _preload_cuda() if kind == "cuda" else ""
    requested = [(provider, {"device_id": index or "0"} if kind == "cuda" else {})]
    onnxruntime.set_default_logger_severity(FATAL)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=requested)
    except ORT_ERRORS as error:
        reason = _first_line(error)
        raise BundleError(f"{path} cannot be loaded by ONNX Runtime ({reason}): export it again") from error
    finally:
        onnxruntime.set_default_logger_severity(WARNING)
    if provider not in session.get_providers():  # it falls back to the CPU without an error
        raise BundleError(
            f"ONNX Runtime {onnxruntime.__version__} cannot use the GPU and fell back to "
            f"{', '.join(session.get_providers())} ({missing or 'no usable NVIDIA driver or GPU'}): it needs "
            f"onnxruntime-gpu, an NVIDIA driver, CUDA, cuDNN 9 and libcurand "
            f"(pip install 'semiseg-zoo[gpu]'); or run on the CPU"
        )
    return provider, session


def _preload_cuda() -> str:
    """Load the CUDA libraries of installed packages; return the first that is missing, if any."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        onnxruntime.preload_dlls()
    return _first_line(printed.getvalue())


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [""])[0]
