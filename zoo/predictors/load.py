"""A predictor from a path: the suffix, or the backend that is asked for, says which.

A backend is imported when it is asked for: an exported file is run, and served, without PyTorch.
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
        backend: a name of `zoo.predictors.backends` that runs such a model; None for the first that does:
            `eager` of a bundle, `ort` of an `.onnx` file, `trt` of an engine.
        device: `cpu` or `cuda`; an engine always runs on a GPU, OpenVINO on the CPU.
        threads: of the CPU; None for one on each core.
        precision: of the file, for a backend that runs one; None for a bundle's fp32 ONNX file, for
            an engine of any precision, for whatever an artifact has.

    Raises:
        BundleError: no model there, or not one for this backend, device and precision.
        ServerError: no such server.
    """
    if isinstance(path, str):
        return _again(_connect(path, backend or precision), partial(load_predictor, path))
    backends = backends_of(path)
    if not backends:
        raise BundleError(
            f"{path} is not a model, expected a bundle folder or a file of {', '.join(file_suffixes())}"
        )
    backend = backend or backends[0]
    if backend not in backends:
        raise BundleError(f"backend {backend} cannot run {path}, expected {' or '.join(backends)}")
    options = {"backend": backend, "device": device, "threads": threads, "precision": precision}
    predictor = BACKENDS[backend].load(Request(path, device, threads, precision))
    return _again(predictor, partial(load_predictor, path.absolute(), **options))  # type: ignore[arg-type]


def _again(predictor: Predictor, loader: Callable[[], Predictor]) -> Predictor:
    """Return a predictor that knows how it was loaded."""
    predictor.loader = loader
    return predictor


def _connect(url: str, wanted: str | None) -> Predictor:
    if wanted is not None:
        raise BundleError(f"{url} is a server, which selects its own backend, got {wanted}: leave it out")
    from zoo.predictors.remote import RemotePredictor

    return RemotePredictor(url)
