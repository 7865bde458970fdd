"""A predictor from a path: the suffix, or the backend that is asked for, says which.

A backend is imported when it is asked for: an exported file is run, and served, without PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zoo.bundle.bundle import WEIGHTS_NAME, load_config
from zoo.bundle.manifest import sha256
from zoo.errors import BundleError
from zoo.predictors.artifact import ONNX_NAMES, TRT_ONNX_NAMES, read_engine_info
from zoo.predictors.trt_api import installed_flavors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.predictors.artifact import Precision
    from zoo.predictors.base import Predictor
    from zoo.predictors.eager import EagerFlavor
    from zoo.predictors.exported import ExportedPredictor

ENGINES = "engines"

BACKENDS_OF_SUFFIX = {".onnx": ("ort", "openvino"), ".engine": ("trt",)}
BACKENDS_OF_BUNDLE = ("eager", "eager-amp", "compile", "compile-amp", "ort", "openvino", "trt")


class Request(NamedTuple):
    """What a predictor is loaded from and how it is to run."""

    path: Path
    device: str
    threads: int | None
    precision: Precision | None = None


def load_predictor(
    path: Path | str,
    *,
    backend: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    precision: Precision | None = None,
) -> Predictor:
    """Return the predictor of a bundle folder, an artifact or a server.

    Args:
        path: a bundle folder, an `.onnx` or an `.engine` file; or as text `http://host:port[/NAME]` of a
            server, which has chosen all else.
        backend: `eager` (default of a bundle), `eager-amp`, `compile`, `compile-amp`, `ort` (default of an
            `.onnx` file) and `openvino` (an ONNX file of a bundle), or `trt` (the newest engine of a bundle
            that runs here).
        device: `cpu` or `cuda`; an engine always runs on a GPU, OpenVINO on the CPU.
        threads: of the CPU; None for one on each core.
        precision: of the file that `ort`, `openvino` or `trt` runs; None for a bundle's fp32 ONNX file, for
            an engine of any precision, for whatever an artifact has.

    Raises:
        BundleError: no model there, or not one for this backend, device and precision.
        ServerError: no such server.
    """
    if isinstance(path, str):
        return _connect(path, backend or precision)
    backends = BACKENDS_OF_BUNDLE if path.is_dir() else BACKENDS_OF_SUFFIX.get(path.suffix)
    if backends is None:
        raise BundleError(
            f"{path} is no model, expected a bundle folder or a file of {', '.join(BACKENDS_OF_SUFFIX)}"
        )
    backend = backend or backends[0]
    if backend not in backends:
        raise BundleError(f"backend {backend} cannot run {path}, expected {' or '.join(backends)}")
    return LOADERS[backend](Request(path, device, threads, precision))


def _connect(url: str, wanted: str | None) -> Predictor:
    if wanted is not None:
        raise BundleError(f"{url} is a server, which has chosen what runs there, got {wanted}: leave it out")
    from zoo.predictors.remote import RemotePredictor

    return RemotePredictor(url)


def _load_eager(request: Request) -> Predictor:
    return _eager(request, "eager")


def _load_amp(request: Request) -> Predictor:
    return _eager(request, "eager-amp")


def _load_compiled(request: Request) -> Predictor:
    return _eager(request, "compile")


def _load_compiled_amp(request: Request) -> Predictor:
    return _eager(request, "compile-amp")


def _load_ort(request: Request) -> Predictor:
    if request.device == "cpu":
        from zoo.predictors.ort import OrtPredictor

        return _load_onnx(request, lambda path: OrtPredictor(path, request.threads))
    from zoo.predictors.ort_cuda import OrtCudaPredictor

    return _load_onnx(request, lambda path: OrtCudaPredictor(path, request.device))


def _load_openvino(request: Request) -> Predictor:
    if request.device != "cpu":
        raise BundleError(f"backend openvino runs on the CPU, got device {request.device}: use --device cpu")
    from zoo.predictors.openvino import OpenVinoPredictor

    return _load_onnx(request, lambda path: OpenVinoPredictor(path, request.threads))


def _load_onnx(request: Request, load: Callable[[Path], ExportedPredictor]) -> Predictor:
    """Return the predictor of an ONNX file, or of the one of a bundle that has the precision asked for."""
    if request.path.is_file():
        predictor = load(request.path)
        _check_precision(request, predictor.metadata.precision)
        return predictor
    load_config(request.path)
    predictor = load(request.path / ONNX_NAMES[request.precision or "fp32"])
    _check_weights(predictor.path, predictor.metadata.weights_sha256, request.path)
    return predictor


def _load_trt(request: Request) -> Predictor:
    from zoo.predictors.trt import load_trt

    device = "cuda" if request.device == "cpu" else request.device
    if request.path.is_file():
        _check_precision(request, read_engine_info(request.path).metadata.precision)
        return load_trt(request.path, device)
    return load_trt(newest_engine(request.path, request.precision), device)


LOADERS: dict[str, Callable[[Request], Predictor]] = {
    "eager": _load_eager,
    "eager-amp": _load_amp,
    "compile": _load_compiled,
    "compile-amp": _load_compiled_amp,
    "ort": _load_ort,
    "openvino": _load_openvino,
    "trt": _load_trt,
}


def newest_engine(bundle: Path, precision: Precision | None = None) -> Path:
    """Return the engine of a bundle that runs on this machine and was built last.

    Args:
        bundle: its folder.
        precision: of the engine; None for any.

    Raises:
        BundleError: there is none, with the reason of the newest.
    """
    found = sorted(bundle.glob(f"{ENGINES}/*.engine"), key=lambda path: path.stat().st_mtime, reverse=True)
    engines = [path for path in found if precision in (None, read_engine_info(path).metadata.precision)]
    if not engines:
        kind = "engine" if precision is None else f"engine in {precision}"
        raise BundleError(f"{bundle} holds no {kind}: build one with zoo export --trt {bundle}")
    reasons = {path: _why_not(path, bundle) for path in engines}
    for path, reason in reasons.items():
        if not reason:
            return path
    path = engines[0]
    raise BundleError(f"no engine of {bundle} runs here; the newest, {path.name}: {reasons[path]}")


def _why_not(engine: Path, bundle: Path) -> str:
    """Return why an engine cannot stand for the model of its bundle here; empty if it can."""
    from zoo.predictors.trt import why_not_here

    info = read_engine_info(engine)
    if info.flavor not in installed_flavors():
        return f"the package that built it is not installed: pip install 'semiseg-zoo[{info.flavor}]'"
    if reason := why_not_here(info):
        return reason
    onnx = bundle / TRT_ONNX_NAMES[info.metadata.precision]
    stale = onnx.is_file() and sha256(onnx) != info.onnx_sha256
    if stale or info.metadata.weights_sha256 != sha256(bundle / WEIGHTS_NAME):
        origin = onnx.name if stale else "weights"
        return f"it was built from other {origin} than the bundle has now: zoo export --trt {bundle} again"
    return ""


def _check_weights(artifact: Path, weights_sha256: str, bundle: Path) -> None:
    """Raise if an artifact was made from other weights than the bundle's."""
    if weights_sha256 != sha256(bundle / WEIGHTS_NAME):
        raise BundleError(
            f"{artifact} was made from other weights than {bundle / WEIGHTS_NAME}: zoo export {bundle} again"
        )


def _check_precision(request: Request, precision: Precision) -> None:
    if request.precision not in (None, precision):
        raise BundleError(
            f"{request.path} is in {precision}, expected {request.precision}: name another file or the bundle"
        )


def _eager(request: Request, flavor: EagerFlavor) -> Predictor:
    import torch

    from zoo.predictors.eager import load_eager

    if request.device.startswith("cuda") and not torch.cuda.is_available():
        raise BundleError(
            f"device {request.device} cannot be used: PyTorch finds no NVIDIA GPU; run on the CPU"
        )
    if request.precision not in (None, "fp32"):
        raise BundleError(
            f"precision {request.precision} needs an exported file, expected backend ort, openvino or trt: "
            f"the bundle itself is in fp32"
        )
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    return load_eager(request.path, request.device, flavor=flavor)
