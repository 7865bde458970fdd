"""What a pass through a network takes: floating-point operations and bytes moved, counted without running it.

The network is traced on PyTorch's `meta` device, which computes shapes alone. FLOPs are PyTorch's own count
(`torch.utils.flop_counter`: a multiplication and an addition are two). Bytes are those of one kernel for each
convolution or product: it reads its input and its weights and writes its output, each once; all other
operators (BatchNorm, ReLU, sums, resizing, arg-max) are taken to be part of those kernels and to move
nothing. The image is read as uint8 and the mask written so. A cache that holds an activation between two
kernels can save some of it, a backend that fuses less moves more.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from torch import nn

KERNELS = {"convolution", "_convolution", "mm", "addmm", "bmm", "baddbmm"}
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Of an element, by precision."""


class Work(NamedTuple):
    """What one image takes.

    Args:
        flops: of all kernels.
        weights: elements, read once for a whole batch.
        activations: elements that are read and written.
        image_bytes: uint8 images read and masks written.
    """

    flops: float
    weights: int
    activations: int
    image_bytes: int

    def flops_of(self, batch: int) -> float:
        """Return the floating-point operations of a batch."""
        return self.flops * batch

    def bytes_of(self, batch: int, precision: str) -> int:
        """Return the bytes that a batch moves in a precision."""
        elements = self.weights + batch * self.activations
        return BYTES[precision] * elements + batch * self.image_bytes


class Traffic(TorchDispatchMode):
    """Counts the elements that the kernels inside the block read and write.

    Args:
        model: whose parameters, and views of them, are weights.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parameters = {_storage(parameter) for parameter in model.parameters()}
        self.weights = 0
        self.activations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func.name().removeprefix("aten::").partition(".")[0] in KERNELS:
            for value in args[:3]:
                if isinstance(value, Tensor):
                    self._read(value)
            self.activations += output.numel()
        return output

    def _read(self, value: Tensor) -> None:
        if _storage(value) in self.parameters:
            self.weights += value.numel()
        else:
            self.activations += value.numel()


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


@torch.no_grad()
def count_work(deployable: nn.Module, imgsz: tuple[int, int]) -> Work:
    """Return what one image takes.

    Args:
        deployable: takes normalised images (B, 3, H, W); not changed.
        imgsz: height and width.
    """
    model = copy.deepcopy(deployable).to("meta").eval()
    images = torch.empty(1, 3, *imgsz, device="meta")
    with FlopCounterMode(display=False) as flops, Traffic(model) as traffic:
        model(images)
    pixels = math.prod(imgsz)
    return Work(float(flops.get_total_flops()), traffic.weights, traffic.activations, (3 + 1) * pixels)
