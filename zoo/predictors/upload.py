"""Upload of images to the device of a PyTorch model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from zoo.errors import BundleError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def upload(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return a copy of images on a device.

    Args:
        images: (B, H, W, 3) uint8 RGB.
        device: device of the model.

    Raises:
        BundleError: a GPU that the parent of this forked process has used.
    """
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise forked("a model on a GPU")
    return torch.from_numpy(np.array(images, order="C")).to(device)


def forked(what: str) -> BundleError:
    """Return the error for a model that cannot be used in a forked process.

    Args:
        what: kind of model.
    """
    return BundleError(
        f"{what} cannot be used in a process that was forked from the one that loaded it: start processes by "
        f"spawn and load it in each"
    )
