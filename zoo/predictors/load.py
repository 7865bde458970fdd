"""A predictor from a path: the suffix, or the backend that is asked for, says which."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from zoo.bundle import WEIGHTS_NAME, load_config
from zoo.errors import BundleError
from zoo.predictors.artifact import read_engine_info, sha256
from zoo.predictors.eager import load_eager
from zoo.predictors.ort import OrtPredictor
from zoo.predictors.trt import load_trt, why_not_here
from zoo.predictors.trt_api import installed_flavors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.predictors.base import Predictor

ONNX_NAME = "model.onnx"
ENGINES = "engines"

BACKENDS_OF_SUFFIX = {".onnx": ("ort",), ".engine": ("trt",)}
BACKENDS_OF_BUNDLE = ("eager", "compile", "ort", "trt")


class Request(NamedTuple):
    """What a predictor is loaded from and how it is to run."""

    path: Path
    device: str
    threads: int | None


def load_predictor(
    path: Path, *, backend: str | None = None, device: str = "cpu", threads: int | None = None
) -> Predictor:
    """Return the predictor of a bundle folder or an artifact.

    Args:
        path: a bundle folder, an `.onnx` or an `.engine` file.
        backend: `eager` (default of a bundle), `compile`, `ort` (a bundle's `model.onnx`) or `trt` (the
            newest engine of a bundle that runs here).
        device: `cpu` or `cuda`; an engine always runs on a GPU.
        threads: of the CPU; None for one on each core.

    Raises:
        BundleError: no model there, or not one for this backend and device.
    """
    backends = BACKENDS_OF_BUNDLE if path.is_dir() else BACKENDS_OF_SUFFIX.get(path.suffix)
    if backends is None:
        raise BundleError(
            f"{path} is no model, expected a bundle folder or a file of {', '.join(BACKENDS_OF_SUFFIX)}"
        )
    backend = backend or backends[0]
    if backend not in backends:
        raise BundleError(f"backend {backend} cannot run {path}, expected {' or '.join(backends)}")
    return LOADERS[backend](Request(path, device, threads))


def _load_eager(request: Request) -> Predictor:
    _set_up_torch(request)
    return load_eager(request.path, request.device)


def _load_compiled(request: Request) -> Predictor:
    _set_up_torch(request)
    return load_eager(request.path, request.device, flavor="compile")


def _load_ort(request: Request) -> Predictor:
    if request.path.is_file():
        return OrtPredictor(request.path, request.device, request.threads)
    load_config(request.path)
    predictor = OrtPredictor(request.path / ONNX_NAME, request.device, request.threads)
    _check_weights(predictor.path, predictor.metadata.weights_sha256, request.path)
    return predictor


def _load_trt(request: Request) -> Predictor:
    device = "cuda" if request.device == "cpu" else request.device
    if request.path.is_file():
        return load_trt(request.path, device)
    path = newest_engine(request.path)
    _check_weights(path, read_engine_info(path).metadata.weights_sha256, request.path)
    return load_trt(path, device)


LOADERS: dict[str, Callable[[Request], Predictor]] = {
    "eager": _load_eager,
    "compile": _load_compiled,
    "ort": _load_ort,
    "trt": _load_trt,
}


def newest_engine(bundle: Path) -> Path:
    """Return the engine of a bundle that runs on this machine and was built last.

    Raises:
        BundleError: there is none, with the reason of the newest.
    """
    engines = sorted(bundle.glob(f"{ENGINES}/*.engine"), key=lambda path: path.stat().st_mtime, reverse=True)
    if not engines:
        raise BundleError(f"{bundle} holds no engine: build one with zoo export --trt {bundle}")
    reasons = {path: _why_not(path) for path in engines}
    for path, reason in reasons.items():
        if not reason:
            return path
    path = engines[0]
    raise BundleError(f"no engine of {bundle} runs here; the newest, {path.name}: {reasons[path]}")


def _why_not(engine: Path) -> str:
    info = read_engine_info(engine)
    if info.flavor not in installed_flavors():
        return f"the package that built it is not installed: pip install 'semiseg-zoo[{info.flavor}]'"
    return why_not_here(info)


def _check_weights(artifact: Path, weights_sha256: str, bundle: Path) -> None:
    """Raise if an artifact was made from other weights than the bundle's."""
    if weights_sha256 != sha256(bundle / WEIGHTS_NAME):
        raise BundleError(
            f"{artifact} was made from other weights than {bundle / WEIGHTS_NAME}: zoo export {bundle} again"
        )


def _set_up_torch(request: Request) -> None:
    if request.device.startswith("cuda") and not torch.cuda.is_available():
        raise BundleError(
            f"device {request.device} cannot be used: PyTorch finds no NVIDIA GPU; run on the CPU"
        )
    if request.threads is not None:
        torch.set_num_threads(request.threads)
