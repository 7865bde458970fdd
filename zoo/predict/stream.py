"""Many images through one predictor: read ahead in threads, run in batches of images of one size.

No image is held longer than it takes: at most `AHEAD` batches are read before they run.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np

from zoo.errors import BundleError, InvalidImageError, ZooError
from zoo.predictors.base import Prediction
from zoo.predictors.outputs import MASK
from zoo.preprocess import check_image, resize_image

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from numpy.typing import NDArray

    from zoo.predictors.base import Predictor

    Image = NDArray[np.uint8]
    Size = tuple[int, int]

T = TypeVar("T")

BATCH = 8
"""Images in a batch, where they are small enough."""

BATCH_PIXELS = BATCH * 512 * 512
"""Of a batch, at the network's size: larger images come in smaller batches, so that memory holds them."""

AHEAD = 2
"""Batches that are read, but not run yet."""

THREADS = min(8, os.cpu_count() or 1)
"""That read; as many write."""


class Streamed(NamedTuple, Generic[T]):
    """What a model said of one image."""

    item: T
    size: Size
    """Height and width of the image."""
    raw: Prediction
    """At the network's size, (h, w)."""
    seconds: float
    """That the batch took, by the number of its images."""
    image: Image | None
    """(H, W, 3) uint8 RGB, if it was to be kept."""

    def prediction(self) -> Prediction:
        """Return the outputs that were asked for, at the image's size, (H, W)."""
        return self.raw.resized(self.size)


class Failed(NamedTuple, Generic[T]):
    """An image that cannot be read, or that the model cannot take."""

    item: T
    error: ZooError


class Loaded(NamedTuple, Generic[T]):
    """An image that waits for its batch."""

    item: T
    size: Size
    pixels: Image
    """(h, w, 3) uint8 RGB, at the network's size."""
    image: Image | None


class Options(NamedTuple):
    """How images are streamed.

    Args:
        batch: images in a batch; None for `BATCH`, fewer of large images.
        least: that the artifact takes at once; a smaller batch is filled up.
        most: likewise.
        outputs: names of those that are wanted, of `zoo.predictors.outputs`.
        keep_images: whether results carry the image.
    """

    batch: int | None = None
    least: int = 1
    most: int = sys.maxsize
    outputs: tuple[str, ...] = (MASK,)
    keep_images: bool = False

    def batch_of(self, size: Size) -> int:
        """Return how many images of a size (at the network) make a batch."""
        wanted = self.batch or max(1, min(BATCH, BATCH_PIXELS // (size[0] * size[1])))
        return min(max(self.least, wanted), self.most)


def stream(
    predictor: Predictor, items: Iterable[T], read: Callable[[T], Image], options: Options | None = None
) -> Generator[Streamed[T] | Failed[T]]:
    """Yield the results of items, each one when its batch is done: in their order if all are of one size.

    The results are those of `predictor.predict`. Only the caller's thread runs the model.

    Args:
        predictor: of the masks.
        items: whatever `read` takes; those that are not needed yet are not asked for.
        read: returns the (H, W, 3) uint8 RGB image of an item, in a thread.
        options: see `Options`.
    """
    options = options or Options()
    waiting: dict[Size, list[Loaded[T]]] = {}  # by the network's size, the one that waits longest first

    def load(item: T) -> Loaded[T] | Failed[T]:
        try:
            image = read(item)
            check_image(image)
            size = image.shape[0], image.shape[1]
            network_size = predictor.preprocessing.model_size(*size)
            predictor.limits.check(network_size, size)
        except InvalidImageError as error:
            return Failed(item, error)
        pixels = resize_image(image, network_size)
        return Loaded(item, size, pixels, image if options.keep_images else None)

    pending = AHEAD * max(options.batch or BATCH, options.least)
    with closing(_read_ahead(items, load, pending)) as reading:
        for loaded in reading:
            if isinstance(loaded, Failed):
                yield loaded
                continue
            size = loaded.pixels.shape[0], loaded.pixels.shape[1]
            waiting.setdefault(size, []).append(loaded)
            full = len(waiting[size]) >= options.batch_of(size)
            if full or sum(map(len, waiting.values())) >= pending:
                yield from _run(predictor, waiting.pop(size if full else next(iter(waiting))), options)
    for group in waiting.values():
        yield from _run(predictor, group, options)


def _read_ahead(
    items: Iterable[T], load: Callable[[T], Loaded[T] | Failed[T]], count: int
) -> Generator[Loaded[T] | Failed[T]]:
    """Yield what `load` makes of items, in order, up to `count` ahead."""
    reading: deque[Future[Loaded[T] | Failed[T]]] = deque()
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="zoo-read")
    try:
        for item in items:
            reading.append(pool.submit(load, item))
            if len(reading) > count:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _run(
    predictor: Predictor, group: list[Loaded[T]], options: Options
) -> Generator[Streamed[T] | Failed[T]]:
    """Yield the results of one batch; if it fails, of its images one by one."""
    padding = [group[-1].pixels] * (options.least - len(group))  # of a file with a fixed batch
    images = np.stack([*(each.pixels for each in group), *padding])
    begin = time.perf_counter()
    try:
        found = Prediction(predictor.infer(images, options.outputs))
    except (InvalidImageError, BundleError, RuntimeError) as error:  # RuntimeError: no memory for so many
        if len(group) > 1:
            for each in group:
                yield from _run(predictor, [each], options)
            return
        if isinstance(error, RuntimeError):
            raise
        yield Failed(group[0].item, error)
        return
    seconds = (time.perf_counter() - begin) / len(group)
    for index, each in enumerate(group):
        yield Streamed(each.item, each.size, found.at(index), seconds, each.image)
