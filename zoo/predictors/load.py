"""Loading of predictors by path, with the backend given or chosen by suffix.

A backend is imported when it is needed: exported files run, and are served, without PyTorch.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from zoo.errors import BundleError
from zoo.predictors.backends import BACKENDS, Request, backends_of, file_suffixes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.predictors.artifact import Precision
    from zoo.predictors.base import Predictor
    from zoo.predictors.fastest import Contestant

FASTEST = "fastest"
"""In place of a backend: the fastest on the CPU by measurement (`zoo.predictors.fastest`)."""


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
        path: a bundle folder, an `.onnx` or an `.engine` file, or, as text, `http://host:port[/NAME]` of a
            server, which ignores the other arguments.
        backend: name of a backend (`zoo.predictors.backends`) that runs such a model, or `fastest` for a
            bundle on the CPU (`zoo.predictors.fastest`); None for the default: `eager` for a bundle, `ort`
            for an `.onnx` file, `trt` for an engine.
        device: `cpu` or `cuda`; an engine always runs on a GPU, OpenVINO on the CPU.
        threads: number of CPU threads; None for one on each core.
        precision: precision of the file, for a backend that runs one; None for a bundle's fp32 ONNX file,
            an engine of any precision, or the precision of the given artifact.

    Raises:
        BundleError: a model that does not exist, or does not support this backend, device or precision.
        ServerError: a server that cannot be used.
    """
    if isinstance(path, str):
        return _again(_connect(path, backend or precision), partial(load_predictor, path))
    backends = backends_of(path)
    if not backends:
        raise BundleError(
            f"{path} is not a model, expected a bundle folder or a file of {', '.join(file_suffixes())}"
        )
    if backend == FASTEST:
        backend, precision = _fastest(path, device, threads, precision)
    backend = backend or backends[0]
    if backend not in backends:
        raise BundleError(f"backend {backend} cannot run {path}, expected {' or '.join(backends)}")
    options = {"backend": backend, "device": device, "threads": threads, "precision": precision}
    predictor = BACKENDS[backend].load(Request(path, device, threads, precision))
    return _again(predictor, partial(load_predictor, path.absolute(), **options))  # type: ignore[arg-type]


def _fastest(path: Path, device: str, threads: int | None, precision: Precision | None) -> Contestant:
    if device != "cpu":
        raise BundleError(f"backend {FASTEST} compares backends of the CPU, got device {device}: use the CPU")
    if not path.is_dir():
        raise BundleError(f"backend {FASTEST} compares files of a bundle, got {path}: pass the bundle folder")
    from zoo.predictors.fastest import fastest

    return fastest(path, threads, precision)


def _again(predictor: Predictor, loader: Callable[[], Predictor]) -> Predictor:
    """Return the predictor with its loader set, so that it can be copied and pickled."""
    predictor.loader = loader
    return predictor


def _connect(url: str, wanted: str | None) -> Predictor:
    if wanted is not None:
        raise BundleError(f"{url} is a server, which selects its own backend, got {wanted}: leave it out")
    from zoo.predictors.remote.predictor import RemotePredictor

    return RemotePredictor(url)
