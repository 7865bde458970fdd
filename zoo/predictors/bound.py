"""Base of runtimes that use PyTorch's memory and CUDA stream, with fixed buffers.

A CUDA graph replays the captured launches with their addresses: each shape has its own input and output
buffers, which batches are copied into and from.
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

    from numpy.typing import NDArray

    from zoo.predictors.artifact import ArtifactMetadata, Shape
    from zoo.predictors.session import Session

KEPT_SHAPES = 4
"""Number of shapes whose buffers are kept, the most recently used."""


class Buffers(NamedTuple):
    """Device memory for one shape."""

    image: Tensor
    """(B, H, W, C) of the format of the model."""
    outputs: dict[str, Tensor]
    """Outputs by name, as in the metadata."""


class Bound(NamedTuple):
    """Buffers and launch function of one shape."""

    buffers: Buffers
    launch: Callable[[], None]
    """Computes the outputs from the image on the current stream, asynchronously."""


class Opened(NamedTuple):
    """An opened file, and the shapes that are bound."""

    runtime: Any
    shapes: OrderedDict[Shape, Bound]
    """Most recently used last."""


class BoundPredictor(ExportedPredictor):
    """A runtime whose `run` is split into `upload`, `compute` and `download`, for separate timing.

    Threads take turns to launch, without waiting for the GPU while they hold the lock.

    Args:
        path: path of the file.
        metadata: metadata of the file.
        device: `cpu`, `cuda` or `cuda:N`.
        stream: stream of this device, from `new_stream`.
        session: session of the file, for one thread at a time.
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
        """Return the launch function of one shape, as `Bound.launch`.

        Args:
            runtime: runtime of the session.
            shape: batch, height, width.
            buffers: buffers of this shape.

        Raises:
            BundleError: a shape that the file does not accept.
        """

    def check(self, shape: Shape) -> None:
        """Raise unless the file accepts a shape.

        Raises:
            InvalidImageError: a size outside `limits`, which the message gives.
        """
        self.limits.check(shape[1:])

    def upload(self, images: NDArray[Any]) -> Tensor:
        """Return a batch of images on the device.

        Args:
            images: (B, H, W, C) of the format.
        """
        return upload(images, self.device)

    def compute(self, batch: Tensor) -> Tensor:
        """Return the masks of a batch, on the device.

        Args:
            batch: (B, H, W, C) of the format, on the device.
        """
        return derive(self._execute(batch), (MASK,))[MASK]

    def download(self, values: Tensor) -> NDArray[Any]:
        """Return an output in host memory."""
        array: NDArray[Any] = values.cpu().numpy()
        return array

    def infer(self, images: NDArray[Any], outputs: Sequence[str] = (MASK,)) -> dict[str, NDArray[Any]]:
        """Return outputs of a batch by name; only these are copied from the device.

        Raises:
            BundleError: a shape that the file does not accept, or an output that it does not have.
        """
        found = derive(self._execute(self.upload(images)), outputs, self.calibration)
        return {name: self.download(values) for name, values in found.items()}

    def outputs(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return all outputs of the file for a batch, by name."""
        return {name: output.cpu().numpy() for name, output in self._execute(self.upload(images)).items()}

    def _execute(self, batch: Tensor) -> dict[str, Tensor]:
        """Return copies of the outputs, which the next batch overwrites; later work on the stream waits."""
        shape = batch.shape[0], batch.shape[1], batch.shape[2]
        self.check(shape)
        with self.session.use() as opened, self._own_stream() as current:
            try:
                bound = self._bound(opened, shape)
                bound.buffers.image.copy_(batch)
                bound.launch()
                copies = {name: output.clone() for name, output in bound.buffers.outputs.items()}
            except BaseException:
                self._settle()  # before the session is freed, which may still be running
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
                    self.stream.synchronize()  # a running graph cannot be freed
                shapes.popitem(last=False)
            shapes[shape] = Bound(buffers, launch)
        shapes.move_to_end(shape)
        return shapes[shape]

    def _settle(self) -> None:
        """Wait for the GPU and ignore its errors, which were raised before."""
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
        image = torch.zeros(
            (*shape, self.format.channels), dtype=getattr(torch, self.format.dtype), device=self.device
        )
        return Buffers(image, outputs)

    @contextmanager
    def _own_stream(self) -> Iterator[torch.cuda.Stream | None]:
        """Run the block on the predictor's stream, ordered after and before work on the current stream.

        Yields the outer stream; None on the CPU.
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
    """Return a new stream for a runtime; None on the CPU.

    The default stream does not allow capturing graphs, and TensorRT synchronizes on it.
    """
    return None if device == "cpu" else torch.cuda.Stream(torch.device(device))
