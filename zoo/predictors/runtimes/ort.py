"""ONNX Runtime backend on the CPU."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from onnxruntime.capi import onnxruntime_pybind11_state  # type: ignore[import-untyped]

from zoo.errors import BundleError
from zoo.machine import fewer_cores, int8_overflows
from zoo.predictors.artifact import INPUT_NAME, METADATA_KEY, parse_metadata
from zoo.predictors.exported import ExportedPredictor
from zoo.predictors.limits import limits_of_sizes, smallest
from zoo.predictors.session import Session

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.predictors.artifact import ArtifactMetadata
    from zoo.predictors.limits import Limits

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
WARNING, FATAL = 2, 4  # log levels; FATAL: errors are raised, not logged
EXACT_INT8 = "session.x64quantprecision", "1"
"""Session option without which sums of int8 products overflow on x86 processors that lack VNNI.

On processors with VNNI it changes nothing but the time, which it doubles.
"""

ORT_ERRORS: tuple[type[Exception], ...] = tuple(  # they have no common base
    value
    for value in vars(onnxruntime_pybind11_state).values()
    if isinstance(value, type) and issubclass(value, Exception)
)


class OrtPredictor(ExportedPredictor):
    """An exported ONNX file on the CPU; `zoo.predictors.runtimes.ort_cuda` runs it on a GPU.

    Threads run in parallel: a session keeps no state of a run.

    Args:
        path: path of the file; the bundle is not needed.
        threads: number of CPU threads; None for one on each core.

    Raises:
        BundleError: a file that is missing or was not exported by zoo.
    """

    backend = "ort"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.session = Session(path, partial(open_session, path, "cpu", threads), alone=False)
        with self.session.use() as session:
            super().__init__(path, metadata_of(session, path))
            self._limits = limits_of(session, self.metadata)

    @property
    def description(self) -> str:
        """Return ONNX Runtime's version and the active provider."""
        return f"ONNX Runtime {onnxruntime.__version__} {PROVIDERS['cpu']}"

    @property
    def limits(self) -> Limits:
        """Return the shapes that the file accepts."""
        return self._limits

    def outputs(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return all outputs of the file for a batch, by name."""
        self.limits.check((images.shape[1], images.shape[2]))
        names = [output.name for output in self.metadata.outputs]
        with self.session.use() as session:
            try:
                values = session.run(names, {INPUT_NAME: np.ascontiguousarray(images)})
            except ORT_ERRORS as error:
                raise run_error(images.shape, error) from error
        return dict(zip(names, values, strict=True))


def open_session(
    path: Path, device: str, threads: int | None = None, cuda: Mapping[str, str] | None = None
) -> onnxruntime.InferenceSession:
    """Return a session that runs on a device, without falling back to another.

    Args:
        path: path of an ONNX file.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: number of CPU threads; None for one on each core.
        cuda: further options of the CUDA provider.

    Raises:
        BundleError: a file that cannot be loaded, or a device that is not available.
    """
    if not path.is_file():
        raise BundleError(f"{path} does not exist, expected an ONNX file: zoo export --onnx makes one")
    kind, _, index = device.partition(":")
    if kind not in PROVIDERS or (index and not index.isdigit()):
        raise BundleError(f"got device {device!r}, expected one of {', '.join(PROVIDERS)}")
    provider = PROVIDERS[kind]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    if int8_overflows():
        options.add_session_config_entry(*EXACT_INT8)
    if threads := threads or fewer_cores():
        options.intra_op_num_threads = threads
    missing = _preload_cuda() if kind == "cuda" else ""
    requested = [(provider, {"device_id": index or "0", **(cuda or {})} if kind == "cuda" else {})]
    onnxruntime.set_default_logger_severity(FATAL)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=requested)
    except ORT_ERRORS as error:
        raise BundleError(
            f"{path} cannot be loaded by ONNX Runtime ({first_line(error)}): export it again, or use another "
            f"precision or backend"
        ) from error
    finally:
        onnxruntime.set_default_logger_severity(WARNING)
    if provider not in session.get_providers():  # falls back to the CPU without an error
        raise BundleError(
            f"ONNX Runtime {onnxruntime.__version__} cannot use the GPU and fell back to "
            f"{', '.join(session.get_providers())} ({missing or 'no usable NVIDIA driver or GPU'}): it needs "
            f"onnxruntime-gpu, an NVIDIA driver, CUDA, cuDNN 9 and libcurand "
            f"(pip install 'semiseg-zoo[gpu]'); or run on the CPU"
        )
    return session


def metadata_of(session: onnxruntime.InferenceSession, path: Path) -> ArtifactMetadata:
    """Return the metadata of an ONNX file.

    Raises:
        BundleError: a file that was not exported by zoo.
    """
    return parse_metadata(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), path)


def limits_of(
    session: onnxruntime.InferenceSession,
    metadata: ArtifactMetadata,
    options: onnxruntime.RunOptions | None = None,
) -> Limits:
    """Return the shapes that a file accepts; the smallest is found by trial runs unless the file gives it.

    Files of version 0.1 do not give it. Trial runs are not safe: in some networks (VoVNet) ONNX Runtime
    divides by the size of empty features, which ends the process.

    Args:
        session: session of the file.
        metadata: metadata of the file.
        options: options of the runs.
    """
    limits = limits_of_sizes(session.get_inputs()[0].shape)
    if metadata.smallest is not None:
        return limits.raised(metadata.smallest)

    def takes(size: tuple[int, int]) -> bool:
        try:
            session.run(None, {INPUT_NAME: metadata.blank((limits.low[0], *size))}, options)
        except ORT_ERRORS:
            return False
        return True

    return smallest(takes, limits)


def run_error(shape: tuple[int, ...], error: Exception) -> BundleError:
    """Return the error for a failed run on images of a shape."""
    return BundleError(f"ONNX Runtime failed on images of shape {tuple(shape)}: {first_line(error)}")


def first_line(error: object) -> str:
    """Return the first line of a message; empty if there is none."""
    return (str(error).strip().splitlines() or [""])[0]


def _preload_cuda() -> str:
    """Load the CUDA libraries of installed packages and return the first that is missing, if any."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        onnxruntime.preload_dlls()
    return first_line(printed.getvalue())
