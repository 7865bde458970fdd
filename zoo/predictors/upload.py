"""Images on the device of a model of PyTorch."""

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
        device: of the model.

    Raises:
        BundleError: a GPU that the process which this one was forked from has used.
    """
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise forked("a model on a GPU")
    return torch.from_numpy(np.array(images, order="C")).to(device)


def forked(what: str) -> BundleError:
    """Return what to raise where a model of the parent cannot be used.

    Args:
        what: the kind of model.
    """
    return BundleError(
        f"{what} cannot be used in a process that was forked from the one that loaded it: start processes by "
        f"spawn and load it in each"
    )
