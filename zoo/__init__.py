"""Deployment-oriented model zoo for semi-supervised semantic segmentation.

Example, from a folder of images to masks:

    import zoo
    run = zoo.fit("eln", data="mydata", encoder="resnet50", steps=20000)
    bundle = run.export(onnx=True, precision="int8")
    masks = zoo.predict(bundle, "new/*.jpg")

`docs/python.md` describes all functions.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspect import Signature

    from zoo.api.benchmark import BenchmarkResult, benchmark
    from zoo.api.bundle import Bundle
    from zoo.api.compare import CompareResult, compare
    from zoo.api.fit import Run, fit
    from zoo.api.model import Model, load
    from zoo.api.predict import predict
    from zoo.api.serve import serve
    from zoo.predict.folder import Predictions
    from zoo.train.loop.events import Event

__version__ = "0.1.0"
__all__ = [
    "BenchmarkResult",
    "Bundle",
    "CompareResult",
    "Event",
    "Model",
    "Predictions",
    "Run",
    "__version__",
    "benchmark",
    "compare",
    "fit",
    "load",
    "predict",
    "serve",
]

_MODULES = {
    "BenchmarkResult": "zoo.api.benchmark",
    "Bundle": "zoo.api.bundle",
    "CompareResult": "zoo.api.compare",
    "Event": "zoo.train.loop.events",
    "Model": "zoo.api.model",
    "Predictions": "zoo.predict.folder",
    "Run": "zoo.api.fit",
    "benchmark": "zoo.api.benchmark",
    "compare": "zoo.api.compare",
    "fit": "zoo.api.fit",
    "load": "zoo.api.model",
}
"""Module of each name of the API."""

_PACKAGES = {"predict": "zoo.api.predict", "serve": "zoo.api.serve"}
"""Packages that share their name with a function: the package is called as that function."""


class _CallablePackage(ModuleType):
    """Package whose call is that of the function of the API with its name."""

    @property
    def __signature__(self) -> "Signature":
        from inspect import signature

        return signature(self._function())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function of the API."""
        return self._function()(*args, **kwargs)

    def _function(self) -> Any:
        name = self.__name__.removeprefix("zoo.")
        return getattr(import_module(_PACKAGES[name]), name)


def make_callable(package: str) -> None:
    """Let a package be called as the function of the API with its name."""
    sys.modules[package].__class__ = _CallablePackage


def __getattr__(name: str) -> object:
    """Import the Python API on first use: importing PyTorch takes seconds."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    if name in _PACKAGES:
        return import_module(f"zoo.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
