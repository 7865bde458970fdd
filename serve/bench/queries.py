"""Timing of the parts of a query on a GPU, named as in `trtexec`: transfers, compute, enqueue.

A query goes from pinned host memory to pinned host memory over three streams, so that its transfers can
overlap with the compute of another. CUDA events surround each part. `alone` waits for each query and gives
the latency; `ahead` keeps one query enqueued ahead of the running one and gives the throughput.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch

from zoo.serve.bench.timing import Budget, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    Images = NDArray[Any]


@runtime_checkable
class Staged(Protocol):
    """Predictor whose `run` consists of these three steps."""

    device: torch.device

    def upload(self, images: Images) -> Any:
        """Return a batch of images on the device."""

    def compute(self, batch: Any) -> Any:
        """Return the masks of a batch on the device, without waiting for them."""

    def download(self, masks: Any) -> Any:
        """Return masks in host memory."""


class Query(NamedTuple):
    """Times of the parts of one query, in milliseconds."""

    h2d: float
    gpu_compute: float
    d2h: float
    enqueue: float

    @property
    def latency(self) -> float:
        """Return the sum of the parts on the GPU."""
        return self.h2d + self.gpu_compute + self.d2h


class Slice(NamedTuple):
    """Runs of a predictor in one round."""

    end_to_end: list[float]
    """Seconds of each run from host memory to host memory."""
    queries: Sequence[Query] = ()
    """Queries, on a GPU."""
    ahead: tuple[int, float] = (0, 0.0)
    """On a GPU: number of queries with one enqueued ahead, and their total seconds."""


class Streams(NamedTuple):
    """CUDA streams of the transfers; compute uses the current stream."""

    upload: torch.cuda.Stream
    download: torch.cuda.Stream


class QueryBuffers:
    """Buffers of a query that may overlap with another one.

    Args:
        predictor: predictor on a GPU.
        images: (B, H, W, 3) uint8 images in host memory.
        masks: masks of these images on the GPU, whose shape and type the buffers get.
        streams: streams of the transfers; None leaves images and masks on the GPU.
    """

    def __init__(self, predictor: Staged, images: Images, masks: Tensor, streams: Streams | None) -> None:
        self.predictor, self.streams = predictor, streams
        self.host_images = torch.from_numpy(images.copy()).pin_memory()
        self.images = self.host_images.to(masks.device)
        self.masks = torch.empty_like(masks)
        self.host_masks = torch.empty_like(masks, device="cpu", pin_memory=True)
        self.marks = [torch.cuda.Event(enable_timing=True) for _ in range(6)]
        self.enqueue_ms = 0.0

    def start(self) -> None:
        """Enqueue a query."""
        sent, received, begun, done, returning, returned = self.marks
        current = torch.cuda.current_stream(self.images.device)
        if self.streams:
            with torch.cuda.stream(self.streams.upload):
                sent.record()
                self.images.copy_(self.host_images, non_blocking=True)
                received.record()
            current.wait_event(received)
        begun.record(current)
        start = time.perf_counter()
        masks = self.predictor.compute(self.images)
        self.enqueue_ms = (time.perf_counter() - start) * 1000
        done.record(current)
        if self.streams:
            self.masks.copy_(masks)  # the predictor may reuse this buffer for the next query
            self.streams.download.wait_stream(current)
            with torch.cuda.stream(self.streams.download):
                returning.record()
                self.host_masks.copy_(self.masks, non_blocking=True)
                returned.record()

    def finish(self) -> Query:
        """Wait for the started query and return its parts."""
        sent, received, begun, done, returning, returned = self.marks
        (returned if self.streams else done).synchronize()
        return Query(
            h2d=sent.elapsed_time(received) if self.streams else 0.0,
            gpu_compute=begun.elapsed_time(done),
            d2h=returning.elapsed_time(returned) if self.streams else 0.0,
            enqueue=self.enqueue_ms,
        )


class GpuTurn:
    """Turn of a predictor on a GPU, measured on one batch.

    Args:
        predictor: predictor, warmed up on these images.
        run: function that predicts from host memory to host memory.
        images: (B, H, W, 3) uint8 images in host memory.
        resident: whether to leave images and masks on the GPU and to time the parts of queries with one
            enqueued ahead, like `trtexec --noDataTransfers`.
    """

    def __init__(
        self, predictor: Staged, run: Callable[[], object], images: Images, *, resident: bool
    ) -> None:
        self.run = run
        self.resident = resident
        masks = predictor.compute(predictor.upload(images))
        device = masks.device
        streams = None if resident else Streams(torch.cuda.Stream(device), torch.cuda.Stream(device))
        self.lanes = [QueryBuffers(predictor, images, masks, streams) for _ in range(2)]
        self.bytes_h2d = 0 if resident else images.nbytes
        self.bytes_d2h = 0 if resident else masks.nbytes

    def __call__(self, budget: Budget) -> Slice:
        """Return the runs of the predictor, with the budget for each of the three measurements."""
        end_to_end = settled(self.run, budget)
        queries = [] if self.resident else alone(self.lanes[0], budget)
        pipelined, seconds = ahead(self.lanes, budget)
        return Slice(end_to_end, pipelined if self.resident else queries, (len(pipelined), seconds))


def alone(lane: QueryBuffers, budget: Budget) -> list[Query]:
    """Return the parts of queries that run one at a time; the first is not counted."""
    queries: list[Query] = []

    def run() -> None:
        lane.start()
        queries.append(lane.finish())

    settled(run, budget)
    return queries[1:]


def ahead(lanes: Sequence[QueryBuffers], budget: Budget) -> tuple[list[Query], float]:
    """Return the parts of queries with all lanes but one enqueued ahead, and their total seconds."""
    queries: list[Query] = []
    under_way: deque[QueryBuffers] = deque()
    begin = time.perf_counter()
    while len(queries) + len(under_way) < budget.runs or time.perf_counter() - begin < budget.seconds:
        if len(under_way) == len(lanes):
            queries.append(under_way.popleft().finish())
        lane = lanes[(len(queries) + len(under_way)) % len(lanes)]
        lane.start()
        under_way.append(lane)
    queries += [lane.finish() for lane in under_way]
    return queries, time.perf_counter() - begin
