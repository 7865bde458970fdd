"""A runtime on memory and a stream of PyTorch, with buffers that stay where they are.

A CUDA graph replays the launches that it captured, addresses included: each shape has an input and outputs of
its own, which batches are copied into and from.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.predictors.exported import ExportedPredictor
from zoo.predictors.outputs import MASK, derive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.predictors.artifact import ArtifactMetadata, Shape

KEPT_SHAPES = 4
"""How many shapes keep their buffers, those that were used last."""


class Buffers(NamedTuple):
    """The memory of one shape, on the device."""

    image: Tensor
    """(B, H, W, 3) uint8."""
    outputs: dict[str, Tensor]
    """By name, as the metadata say."""


class Bound(NamedTuple):
    """What runs one shape."""

    buffers: Buffers
    launch: Callable[[], None]
    """Fills the outputs from the image, on the current stream; the host need not wait."""


class BoundPredictor(ExportedPredictor):
    """A runtime whose `run` is `upload`, `compute` and `download`, which a benchmark can time apart.

    Args:
        path: of the file.
        metadata: what the file says of itself.
        device: `cpu`, `cuda` or `cuda:N`.
        stream: of `new_stream`, for this device.
    """

    def __init__(
        self, path: Path, metadata: ArtifactMetadata, device: str, stream: torch.cuda.Stream | None
    ) -> None:
        super().__init__(path, metadata)
        self.device = torch.device(device)
        self.stream = stream
        self.shapes: OrderedDict[Shape, Bound] = OrderedDict()

    @abstractmethod
    def bind(self, shape: Shape, buffers: Buffers) -> Callable[[], None]:
        """Return what runs one shape; see `Bound.launch`.

        Args:
            shape: batch, height, width.
            buffers: of this shape.

        Raises:
            BundleError: the file does not take this shape.
        """

    def upload(self, images: NDArray[np.uint8]) -> Tensor:
        """Return a batch of images on the device.

        Args:
            images: (B, H, W, 3) uint8 RGB.
        """
        return torch.from_numpy(np.array(images, order="C")).to(self.device)

    def compute(self, batch: Tensor) -> Tensor:
        """Return the masks of a batch, on the device.

        Args:
            batch: (B, H, W, 3) uint8 RGB, on the device.
        """
        return derive(self._execute(batch), (MASK,))[MASK]

    def download(self, values: Tensor) -> NDArray[Any]:
        """Return an output in host memory."""
        array: NDArray[Any] = values.cpu().numpy()
        return array

    def infer(self, images: NDArray[np.uint8], outputs: Sequence[str] = (MASK,)) -> dict[str, NDArray[Any]]:
        """Return outputs of a batch at its own size, by name; only they leave the device.

        Raises:
            BundleError: the file does not take this shape, or does not have this output.
        """
        found = derive(self._execute(self.upload(images)), outputs)
        return {name: self.download(values) for name, values in found.items()}

    def outputs(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Return what the file gives for a batch, by name."""
        return {name: output.cpu().numpy() for name, output in self._execute(self.upload(images)).items()}

    def _execute(self, batch: Tensor) -> dict[str, Tensor]:
        """Return copies of the outputs: the next batch overwrites them. Later work on the stream waits."""
        with self._own_stream():
            bound = self._bound((batch.shape[0], batch.shape[1], batch.shape[2]))
            bound.buffers.image.copy_(batch)
            bound.launch()
        return {name: output.clone() for name, output in bound.buffers.outputs.items()}

    def _bound(self, shape: Shape) -> Bound:
        if shape not in self.shapes:
            buffers = self._allocate(shape)
            launch = self.bind(shape, buffers)
            while len(self.shapes) >= KEPT_SHAPES:
                if self.stream is not None:
                    self.stream.synchronize()  # a graph that still runs cannot be freed
                self.shapes.popitem(last=False)
            self.shapes[shape] = Bound(buffers, launch)
        self.shapes.move_to_end(shape)
        return self.shapes[shape]

    def _allocate(self, shape: Shape) -> Buffers:
        outputs = {
            output.name: torch.zeros(
                output.size(*shape), dtype=getattr(torch, output.dtype), device=self.device
            )
            for output in self.metadata.outputs
        }
        return Buffers(torch.zeros((*shape, 3), dtype=torch.uint8, device=self.device), outputs)

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        """Let our stream wait for the current one, make it the current one, and then let that one wait."""
        if self.stream is None:
            yield
            return
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)


def new_stream(device: str) -> torch.cuda.Stream | None:
    """Return a stream for a runtime, None on the CPU.

    On the default one nothing can be captured, and TensorRT adds synchronisation.
    """
    return None if device == "cpu" else torch.cuda.Stream(torch.device(device))
