"""Access to TensorRT: `tensorrt` and `tensorrt_rtx` have the same API."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.errors import ExportError

if TYPE_CHECKING:
    from zoo.predictors.artifact import Flavor

MODULES: dict[Flavor, str] = {"trt": "tensorrt", "rtx": "tensorrt_rtx"}  # in order of preference
TITLES: dict[Flavor, str] = {"trt": "TensorRT", "rtx": "TensorRT-RTX"}


class TensorRt(NamedTuple):
    """One of the two packages, and the logger that collects its errors.

    TensorRT keeps the first logger of a process, so there is one logger for each package.
    """

    flavor: Flavor
    module: Any
    logger: Any

    @property
    def version(self) -> str:
        """Return major, minor and patch."""
        return ".".join(str(self.module.__version__).split(".")[:3])

    @property
    def name(self) -> str:
        """Return display name and version."""
        return f"{TITLES[self.flavor]} {self.version}"

    def drain(self, *errors: str) -> str:
        """Return `errors` and the errors logged since the last call as one line, and clear the log."""
        logged = [*errors, *self.logger.errors]
        self.logger.errors.clear()
        return "; ".join(dict.fromkeys(" ".join(error.split()) for error in logged)) or "no reason given"


def installed_flavors() -> tuple[Flavor, ...]:
    """Return the installed packages, in order of preference."""
    return tuple(flavor for flavor, module in MODULES.items() if importlib.util.find_spec(module) is not None)


def load_tensorrt(flavor: Flavor | None = None) -> TensorRt:
    """Return a TensorRT package.

    Args:
        flavor: package to load; None for `tensorrt` if it is installed, or else `tensorrt_rtx`.

    Raises:
        ExportError: the package is not installed, or cannot be loaded.
    """
    installed = installed_flavors()
    if flavor is None and installed:
        flavor = installed[0]
    if flavor is None:
        raise ExportError(
            "no TensorRT is installed: pip install 'semiseg-zoo[trt]' builds for the GPU of this machine, "
            "pip install 'semiseg-zoo[rtx]' for RTX GPUs anywhere"
        )
    if flavor not in installed:
        found = ", ".join(TITLES[other] for other in installed) or "none"
        raise ExportError(
            f"{TITLES[flavor]} is not installed, found {found}: pip install 'semiseg-zoo[{flavor}]'"
        )
    return _load(flavor)


@cache
def _load(flavor: Flavor) -> TensorRt:
    try:
        module: Any = importlib.import_module(MODULES[flavor])
    except (ImportError, OSError) as error:
        raise ExportError(
            f"{TITLES[flavor]} is installed but cannot be loaded ({error}): install it again, "
            f"pip install --force-reinstall 'semiseg-zoo[{flavor}]'"
        ) from error
    return TensorRt(flavor, module, _new_logger(module))


def _new_logger(module: Any) -> Any:
    """Return a logger that collects errors and drops other messages."""
    severe = (module.ILogger.Severity.INTERNAL_ERROR, module.ILogger.Severity.ERROR)

    class Collector(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in severe:
                self.errors.append(message)

    return Collector()
