"""Upload of images to the device of a PyTorch model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from zoo.predictors.session import forked

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def upload(images: NDArray[Any], device: torch.device) -> Tensor:
    """Return a copy of images on a device.

    Args:
        images: (B, H, W, C) of any format.
        device: device of the model.

    Raises:
        BundleError: a GPU that the parent of this forked process has used.
    """
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise forked("a model on a GPU")
    return torch.from_numpy(np.array(images, order="C")).to(device)
