"""Streaming prediction of many images: prefetching in threads, and batches of images of equal size.

At most `AHEAD` batches of images are held in memory before they run.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from zoo.errors import BundleError, InvalidImageError, ZooError
from zoo.image_format import displayed
from zoo.machine import cores
from zoo.predictors.base import Prediction
from zoo.predictors.outputs import MASK
from zoo.predictors.tiles import Tiling, predict_tiles
from zoo.preprocess import check_image, resize_image

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from numpy.typing import NDArray

    from zoo.predictors.base import Predictor

    Image = NDArray[Any]
    Size = tuple[int, int]

T = TypeVar("T")

BATCH = 8
"""Default number of images in a batch."""

BATCH_PIXELS = BATCH * 512 * 512
"""Largest number of pixels in a default batch, at the network's size, which limits its memory."""

AHEAD = 2
"""Number of batches that are read ahead."""

THREADS = min(8, cores())
"""Number of threads that read; as many write."""


class Streamed(NamedTuple, Generic[T]):
    """Prediction of one image."""

    item: T
    size: Size
    """Height and width of the image."""
    raw: Prediction
    """Outputs at the network's size, (h, w)."""
    seconds: float
    """Time of the batch divided by its number of images."""
    image: Image | None
    """Picture of the image, (H, W, 3) uint8 RGB, with `keep_images`."""

    def prediction(self) -> Prediction:
        """Return the requested outputs at the image's size, (H, W)."""
        return self.raw.resized(self.size)


class Failed(NamedTuple, Generic[T]):
    """An image that cannot be read, or that the model does not accept."""

    item: T
    error: ZooError


class Loaded(NamedTuple, Generic[T]):
    """An image that waits for its batch."""

    item: T
    size: Size
    pixels: Image
    """(h, w, C) of the model's format, at the network's size."""
    image: Image | None


class Options(NamedTuple):
    """Options of `stream`.

    Args:
        batch: number of images in a batch; None for `BATCH`, or fewer if the images are large.
        least: smallest batch that the artifact accepts; smaller batches are padded.
        most: largest batch that the artifact accepts.
        outputs: names of the requested outputs (`zoo.predictors.outputs`).
        keep_images: whether results include a picture of the image.
        tiling: tiles in which images are predicted at their original size; None for whole images, resized.
            `batch` is then the number of tiles in a batch.
    """

    batch: int | None = None
    least: int = 1
    most: int = sys.maxsize
    outputs: tuple[str, ...] = (MASK,)
    keep_images: bool = False
    tiling: Tiling | None = None

    def batch_of(self, size: Size) -> int:
        """Return the number of images in a batch, by their size at the network."""
        wanted = self.batch or max(1, min(BATCH, BATCH_PIXELS // (size[0] * size[1])))
        return min(max(self.least, wanted), self.most)


def stream(
    predictor: Predictor, items: Iterable[T], read: Callable[[T], Image], options: Options | None = None
) -> Generator[Streamed[T] | Failed[T]]:
    """Yield the results of items as their batches finish, in order if all images have one size.

    The results equal those of `predictor.predict`. Only the caller's thread runs the model.

    Args:
        predictor: model that predicts.
        items: arguments for `read`, consumed as needed.
        read: function that returns the image of an item, (H, W, C) of the model's format; called in a thread.
        options: options of batches and outputs.
    """
    options = options or Options()
    waiting: dict[Size, list[Loaded[T]]] = {}  # by the network's size, longest waiting first

    def load(item: T) -> Loaded[T] | Failed[T]:
        try:
            image = read(item)
            check_image(image, predictor.format)
            size = image.shape[0], image.shape[1]
            tiling = options.tiling
            network_size = (
                predictor.preprocessing.model_size(*size) if tiling is None else tiling.tile_of(size)
            )
            predictor.limits.check(network_size, size)
        except InvalidImageError as error:
            return Failed(item, error)
        pixels = resize_image(image, network_size) if tiling is None else image
        shown = displayed(image, predictor.format) if options.keep_images else None
        return Loaded(item, size, pixels, shown)

    pending = 1 if options.tiling else AHEAD * max(options.batch or BATCH, options.least)
    with closing(_read_ahead(items, load, pending)) as reading:
        for loaded in reading:
            if isinstance(loaded, Failed):
                yield loaded
                continue
            if options.tiling is not None:
                yield _run_tiles(predictor, loaded, options.tiling, options)
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
    """Yield the results of `load` for each item, in order, reading up to `count` ahead."""
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


def _run_tiles(
    predictor: Predictor, loaded: Loaded[T], tiling: Tiling, options: Options
) -> Streamed[T] | Failed[T]:
    """Return the result of one image from its tiles."""
    begin = time.perf_counter()
    batch = options.batch_of(tiling.tile_of(loaded.size))
    try:
        found = predict_tiles(predictor, loaded.pixels, tiling, options.outputs, batch)
    except (InvalidImageError, BundleError) as error:
        return Failed(loaded.item, error)
    return Streamed(loaded.item, loaded.size, found, time.perf_counter() - begin, loaded.image)


def _run(
    predictor: Predictor, group: list[Loaded[T]], options: Options
) -> Generator[Streamed[T] | Failed[T]]:
    """Yield the results of one batch; if it fails, run its images one by one."""
    padding = [group[-1].pixels] * (options.least - len(group))  # for a file with a fixed batch
    images = np.stack([*(each.pixels for each in group), *padding])
    begin = time.perf_counter()
    try:
        found = Prediction(predictor.infer(images, options.outputs))
    except (InvalidImageError, BundleError, RuntimeError) as error:  # RuntimeError: out of memory
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
