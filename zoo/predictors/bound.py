"""A runtime on memory and a stream of PyTorch, with buffers that stay where they are.

A CUDA graph replays the launches that it captured, addresses included: each shape has an input and outputs of
its own, which batches are copied into and from.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from zoo.predictors.exported import ExportedPredictor
from zoo.predictors.outputs import MASK, derive
from zoo.predictors.upload import upload

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from zoo.predictors.artifact import ArtifactMetadata, Shape
    from zoo.predictors.session import Session

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


class Opened(NamedTuple):
    """A file as a runtime has opened it, and the shapes that it has run."""

    runtime: Any
    shapes: OrderedDict[Shape, Bound]
    """The one that was used last at the end."""


class BoundPredictor(ExportedPredictor):
    """A runtime whose `run` is `upload`, `compute` and `download`, which a benchmark can time apart.

    Threads take turns at launching; none waits for the GPU in its turn.

    Args:
        path: of the file.
        metadata: what the file says of itself.
        device: `cpu`, `cuda` or `cuda:N`.
        stream: of `new_stream`, for this device.
        session: of the file, for one thread at a time.
    """

    def __init__(
        self,
        path: Path,
        metadata: ArtifactMetadata,
        device: str,
        stream: torch.cuda.Stream | None,
        session: Session[Opened],
    ) -> None:
        super().__init__(path, metadata)
        self.device = torch.device(device)
        self.stream = stream
        self.session = session

    @abstractmethod
    def bind(self, runtime: Any, shape: Shape, buffers: Buffers) -> Callable[[], None]:
        """Return what runs one shape; see `Bound.launch`.

        Args:
            runtime: of the session.
            shape: batch, height, width.
            buffers: of this shape.

        Raises:
            BundleError: the file does not take this shape.
        """

    def check(self, shape: Shape) -> None:
        """Raise unless the file takes a shape.

        Raises:
            InvalidImageError: says which sizes it takes.
        """
        self.limits.check(shape[1:])

    def upload(self, images: NDArray[np.uint8]) -> Tensor:
        """Return a batch of images on the device.

        Args:
            images: (B, H, W, 3) uint8 RGB.
        """
        return upload(images, self.device)

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
        shape = batch.shape[0], batch.shape[1], batch.shape[2]
        self.check(shape)
        with self.session.use() as opened, self._own_stream() as current:
            try:
                bound = self._bound(opened, shape)
                bound.buffers.image.copy_(batch)
                bound.launch()
                copies = {name: output.clone() for name, output in bound.buffers.outputs.items()}
            except BaseException:
                self._settle()  # before what may still run is freed with the session
                raise
            if current is not None:
                for copy in copies.values():
                    copy.record_stream(current)
        return copies

    def _bound(self, opened: Opened, shape: Shape) -> Bound:
        shapes = opened.shapes
        if shape not in shapes:
            buffers = self._allocate(shape)
            launch = self.bind(opened.runtime, shape, buffers)
            while len(shapes) >= KEPT_SHAPES:
                if self.stream is not None:
                    self.stream.synchronize()  # a graph that still runs cannot be freed
                shapes.popitem(last=False)
            shapes[shape] = Bound(buffers, launch)
        shapes.move_to_end(shape)
        return shapes[shape]

    def _settle(self) -> None:
        """Wait for the GPU; what it raises has been raised."""
        if self.stream is not None:
            with suppress(RuntimeError):
                self.stream.synchronize()

    def _allocate(self, shape: Shape) -> Buffers:
        outputs = {
            output.name: torch.zeros(
                output.size(*shape), dtype=getattr(torch, output.dtype), device=self.device
            )
            for output in self.metadata.outputs
        }
        return Buffers(torch.zeros((*shape, 3), dtype=torch.uint8, device=self.device), outputs)

    @contextmanager
    def _own_stream(self) -> Iterator[torch.cuda.Stream | None]:
        """Let our stream wait for the current one, make it the current one, and then let that one wait.

        Gives the one that is current outside, None on the CPU.
        """
        if self.stream is None:
            yield None
            return
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield current
        current.wait_stream(self.stream)


def new_stream(device: str) -> torch.cuda.Stream | None:
    """Return a stream for a runtime, None on the CPU.

    On the default one nothing can be captured, and TensorRT adds synchronization.
    """
    return None if device == "cpu" else torch.cuda.Stream(torch.device(device))
