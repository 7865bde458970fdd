"""Deployment-oriented model zoo for semi-supervised semantic segmentation.

Example, with a model from the Hub:

    import zoo
    model = zoo.load("owner/name")
    mask = model("image.jpg")
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.api import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load"]


def __getattr__(name: str) -> object:
    """Import the Python API on first use: importing PyTorch takes seconds."""
    if name in ("Model", "load"):
        from zoo import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
