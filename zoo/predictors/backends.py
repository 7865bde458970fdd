"""Table of backends, with the files and devices of each.

A backend is one module and one row here; loading, `zoo bench`, `zoo serve`, `zoo export --precision auto` and
help texts read this table. Other packages add rows by entry points of the group `zoo.backends`. A loader
imports its runtime when it is called, so that exported files run without PyTorch.
"""

from __future__ import annotations

import importlib.util
import platform
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Literal, NamedTuple

from zoo import __version__
from zoo.errors import BundleError
from zoo.machine import limit_torch
from zoo.plugins import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from zoo.predictors.artifact import Precision
    from zoo.predictors.base import Predictor
    from zoo.predictors.eager import EagerFlavor
    from zoo.predictors.exported import ExportedPredictor
    from zoo.preprocess import Preprocessing

Device = Literal["cuda", "cpu"]

ENGINES = "engines"
"""Folder of the engines in a bundle."""

ONNX, ENGINE = ".onnx", ".engine"
"""Suffixes of the files that `zoo export` writes."""


class Request(NamedTuple):
    """Arguments of a backend's loader."""

    path: Path
    device: str
    threads: int | None
    precision: Precision | None = None


@dataclass(frozen=True)
class BackendRow:
    """One backend.

    Args:
        load: function that returns the predictor of a request, or raises a `BundleError` with the reason.
        devices: display name of the backend on each device that it supports.
        suffix: suffix of the exported files that it runs; empty if it runs the bundle itself.
        precisions: precisions of the files that it runs.
        packages: modules of its runtimes, one of which is required, each with its distribution names.
        color: color of its bars and lines, a name in `zoo.pages.html.COLORS`.
        rank: position among the backends that `zoo serve` tries by default on a device, smallest first;
            without a rank, the backend runs on request only.
        compiles: whether the first run of each shape takes long.
        left_out: reason why `zoo bench` measures it on a device only on request.
    """

    load: Callable[[Request], Predictor]
    devices: Mapping[Device, str]
    suffix: str = ""
    precisions: tuple[Precision, ...] = ()
    packages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    color: str = "quiet"
    rank: Mapping[Device, int] = field(default_factory=dict)
    compiles: bool = False
    left_out: Mapping[Device, str] = field(default_factory=dict)

    @property
    def is_installed(self) -> bool:
        """Return whether one of its packages is installed."""
        return not self.packages or any(map(importlib.util.find_spec, self.packages))


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
        from zoo.predictors.runtimes.ort import OrtPredictor

        return load_onnx(request, lambda path: OrtPredictor(path, request.threads))
    from zoo.predictors.runtimes.ort_cuda import OrtCudaPredictor

    return load_onnx(request, lambda path: OrtCudaPredictor(path, request.device))


def _load_openvino(request: Request) -> Predictor:
    if request.device != "cpu":
        raise BundleError(f"backend openvino runs on the CPU, got device {request.device}: use --device cpu")
    from zoo.predictors.runtimes.openvino import OpenVinoPredictor

    return load_onnx(request, lambda path: OpenVinoPredictor(path, request.threads))


def _load_trt(request: Request) -> Predictor:
    from zoo.predictors.artifact import read_engine_info
    from zoo.predictors.runtimes.trt import load_trt

    device = "cuda" if request.device == "cpu" else request.device
    if request.path.is_file():
        _check_precision(request, read_engine_info(request.path).metadata.precision)
        return load_trt(request.path, device)
    return load_trt(newest_engine(request.path, request.precision), device)


TORCH = {"torch": ("torch",)}
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")

BACKENDS = Table(
    "zoo.backends",
    BackendRow,
    {
        "eager": BackendRow(
            _load_eager,
            {"cuda": "PyTorch on the GPU", "cpu": "PyTorch on the CPU"},
            packages=TORCH,
            color="gray",
            rank={"cuda": 50, "cpu": 60},
        ),
        "eager-amp": BackendRow(
            _load_amp,
            {"cuda": "PyTorch (eager-amp)", "cpu": "PyTorch (eager-amp)"},
            packages=TORCH,
            color="orange",
        ),
        "compile": BackendRow(
            _load_compiled,
            {"cuda": "PyTorch (compile)", "cpu": "PyTorch (compile)"},
            packages=TORCH,
            color="blue",
            compiles=True,
        ),
        "compile-amp": BackendRow(
            _load_compiled_amp,
            {"cuda": "PyTorch (compile-amp)", "cpu": "PyTorch (compile-amp)"},
            packages=TORCH,
            color="navy",
            compiles=True,
            left_out={"cpu": "left out on a CPU, where few have bfloat16"},
        ),
        "ort": BackendRow(
            _load_ort,
            {"cuda": "ONNX Runtime CUDA", "cpu": "ONNX Runtime CPU"},
            suffix=ONNX,
            precisions=PRECISIONS,
            packages={"onnxruntime": ("onnxruntime-gpu", "onnxruntime")},
            color="teal",
            rank={"cuda": 20, "cpu": 40},
        ),
        "openvino": BackendRow(
            _load_openvino,
            {"cpu": "OpenVINO"},
            suffix=ONNX,
            precisions=PRECISIONS,
            packages={"openvino": ("openvino",)},
            color="purple",
            rank={"cpu": 30},
        ),
        "trt": BackendRow(
            _load_trt,
            {"cuda": "TensorRT"},
            suffix=ENGINE,
            precisions=PRECISIONS,
            packages={
                "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
                "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13"),
            },
            color="green",
            rank={"cuda": 10},
        ),
    },
)


def color_of(name: str) -> str:
    """Return the color of a backend, a name in `zoo.pages.html.COLORS`; the default for an unknown one."""
    return BACKENDS[name].color if name in BACKENDS else BackendRow.color


def versions() -> dict[str, str | None]:
    """Return the versions of this package, Python and each runtime, None if not installed."""
    packages = {name: names for row in BACKENDS.values() for name, names in row.packages.items()}
    found = {name: next(filter(None, map(version_of, names)), None) for name, names in packages.items()}
    return {"zoo": __version__, "python": platform.python_version(), **found}


def version_of(package: str) -> str | None:
    """Return the version of a distribution, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def file_suffixes() -> tuple[str, ...]:
    """Return the suffixes of all files that a backend runs."""
    return tuple(dict.fromkeys(row.suffix for row in BACKENDS.values() if row.suffix))


def file_backends() -> tuple[str, ...]:
    """Return the backends that run exported files."""
    return tuple(name for name, row in BACKENDS.items() if row.suffix)


def backends_of(path: Path) -> tuple[str, ...]:
    """Return the backends that run a bundle folder or a file, the default first; none for unknown files."""
    if path.is_dir():
        return tuple(BACKENDS)
    return tuple(name for name, row in BACKENDS.items() if row.suffix and row.suffix == path.suffix)


def files_of(backend: str, bundle: Path) -> list[tuple[Precision | None, Path]]:
    """Return precision and path of each file of a bundle that a backend runs; None if it is not known."""
    row = BACKENDS[backend]
    if row.suffix == ONNX:
        from zoo.predictors.artifact import ONNX_NAMES

        named = [(precision, bundle / ONNX_NAMES[precision]) for precision in row.precisions]
        return [(precision, path) for precision, path in named if path.is_file()]
    if row.suffix == ENGINE:
        return [(_engine_precision(path), path) for path in sorted(bundle.glob(f"{ENGINES}/*{ENGINE}"))]
    return [(None, path) for path in sorted(bundle.glob(f"*{row.suffix}")) if row.suffix]


def missing_file(backend: str, bundle: Path, precision: Precision | None) -> str:
    """Return which file a backend lacks in a bundle and which command writes it; empty if it has one."""
    from zoo.predictors.artifact import ONNX_NAMES

    row = BACKENDS[backend]
    if row.suffix == ONNX:
        name = ONNX_NAMES[precision or "fp32"]
        return "" if (bundle / name).is_file() else f"no {name}, zoo export makes it"
    if not row.suffix or files_of(backend, bundle):
        return ""
    return "no engine, zoo export --trt makes one" if row.suffix == ENGINE else f"no {row.suffix} file"


def load_onnx(request: Request, load: Callable[[Path], ExportedPredictor]) -> Predictor:
    """Return the predictor of an ONNX file, or of a bundle's ONNX file in the requested precision.

    Raises:
        BundleError: a file that is missing, of another precision, or exported from other weights or for
            other preprocessing.
    """
    if not request.path.is_dir():
        predictor = load(request.path)
        _check_precision(request, predictor.metadata.precision)
        return predictor
    from zoo.bundle.bundle import load_config
    from zoo.predictors.artifact import ONNX_NAMES

    config = load_config(request.path)
    predictor = load(request.path / ONNX_NAMES[request.precision or "fp32"])
    _check_weights(predictor.path, predictor.metadata.weights_sha256, request.path)
    if reason := _other_input(predictor.preprocessing, config.preprocessing):
        raise BundleError(f"{predictor.path} {reason}: zoo export {request.path} again")
    return predictor


def newest_engine(bundle: Path, precision: Precision | None = None) -> Path:
    """Return the newest engine of a bundle that runs on this machine.

    Args:
        bundle: folder of the bundle.
        precision: precision of the engine; None for any.

    Raises:
        BundleError: no engine runs here; the message gives the reason for the newest.
    """
    from zoo.predictors.artifact import read_engine_info

    found = sorted(bundle.glob(f"{ENGINES}/*.engine"), key=lambda path: path.stat().st_mtime, reverse=True)
    engines = [path for path in found if precision in (None, read_engine_info(path).metadata.precision)]
    if not engines:
        kind = "engine" if precision is None else f"engine in {precision}"
        raise BundleError(f"{bundle} has no {kind}: build one with zoo export --trt {bundle}")
    reasons = {path: _why_not(path, bundle) for path in engines}
    for path, reason in reasons.items():
        if not reason:
            return path
    path = engines[0]
    raise BundleError(f"no engine of {bundle} runs on this machine; the newest, {path.name}: {reasons[path]}")


def _engine_precision(engine: Path) -> Precision | None:
    """Return the precision of an engine; None if it is not known, in which case loading raises the reason."""
    from zoo.predictors.artifact import read_engine_info

    try:
        return read_engine_info(engine).metadata.precision
    except BundleError:
        return None


def _why_not(engine: Path, bundle: Path) -> str:
    """Return why an engine cannot run the model of its bundle here; empty if it can."""
    from zoo.bundle.bundle import WEIGHTS_NAME, load_config
    from zoo.bundle.manifest import sha256
    from zoo.predictors.artifact import TRT_ONNX_NAMES, read_engine_info
    from zoo.predictors.runtimes.trt import why_not_here
    from zoo.predictors.runtimes.trt_api import installed_flavors

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
    if reason := _other_input(info.metadata.preprocessing, load_config(bundle).preprocessing):
        return f"it {reason}: zoo export --trt {bundle} again"
    return ""


def _other_input(found: Preprocessing, expected: Preprocessing) -> str:
    """Return how the preprocessing of a file differs from its bundle's; empty if it is the same."""
    for name, value in expected:
        if getattr(found, name) != value:
            return f"was exported for {name} {getattr(found, name)}, its bundle has {value}"
    return ""


def _check_weights(artifact: Path, weights_sha256: str, bundle: Path) -> None:
    """Raise if an artifact was exported from other weights than the bundle's."""
    from zoo.bundle.bundle import WEIGHTS_NAME
    from zoo.bundle.manifest import sha256

    if weights_sha256 != sha256(bundle / WEIGHTS_NAME):
        raise BundleError(
            f"{artifact} was made from other weights than {bundle / WEIGHTS_NAME}: zoo export {bundle} again"
        )


def _check_precision(request: Request, precision: Precision) -> None:
    if request.precision not in (None, precision):
        raise BundleError(
            f"{request.path} is in {precision}, expected {request.precision}: choose another file or the "
            "bundle"
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
            f"precision {request.precision} needs an exported file, expected backend "
            f"{' or '.join(file_backends())}: the bundle itself is in fp32"
        )
    if request.threads is None:
        limit_torch()
    else:
        torch.set_num_threads(request.threads)
    return load_eager(request.path, request.device, flavor=flavor)
