"""Batched execution of a predictor: stacks images and pads batches for backends with few shapes.

Consecutive failures are counted, to distinguish a bad image from a broken predictor.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zoo.errors import InvalidImageError
from zoo.predictors.outputs import MASK
from zoo.predictors.tiles import predict_tiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zoo.predictors.base import Predictor
    from zoo.predictors.tiles import Tiling
    from zoo.preprocess import Preprocessing

    Image = NDArray[Any]
    Values = dict[str, NDArray[Any]]
    """Outputs by name."""

log = logging.getLogger(__name__)

BLANK = 127
"""Value of all channels of a blank image of 8-bit RGB."""

WARM_RUNS = 3
"""Warm-up runs per shape on a GPU: ONNX Runtime captures the graph of a shape at its second run."""


MAX_FAILURES = 3
"""Consecutive failures, the last on a blank image, after which reloading the predictor has not helped."""


class Ask(NamedTuple):
    """An image and its requested outputs."""

    image: Image
    outputs: tuple[str, ...] = (MASK,)


class Runner:
    """Runs batches of a predictor, in one thread.

    A predictor may fail because of an unusual image: after `MAX_FAILURES` consecutive failures a blank image
    of the same size is run, and the count is reset if it succeeds.

    Args:
        predictor: predictor to run.
        max_batch: maximum number of images per batch, if the file takes as many.
        few_shapes: whether to pad batches to 1, 2, 4, 8, ... images, for backends that set up each shape
            separately (CUDA graphs, engines).
        tiling: tiles in which larger images are predicted; None for whole images.
    """

    def __init__(
        self,
        predictor: Predictor,
        max_batch: int,
        *,
        few_shapes: bool = False,
        tiling: Tiling | None = None,
    ) -> None:
        self.predictor = predictor
        self.tiling = tiling
        self.limits = predictor.limits
        self.max_batch = min(max_batch, self.limits.high[0])
        self._few_shapes = few_shapes
        self.failures = 0
        """Number of consecutive failures."""

    @property
    def failing(self) -> bool:
        """Return whether the predictor keeps failing, even on a blank image."""
        return self.failures > MAX_FAILURES

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) that the network sees of an image of (height, width) `size`."""
        if self.tiling is None:
            return self.predictor.preprocessing.model_size(*size)
        return self.tiling.tile_of(size)

    def is_cut(self, size: tuple[int, int]) -> bool:
        """Return whether an image of (height, width) `size` is predicted in tiles."""
        return self.tiling is not None and self.tiling.tile_of(size) != size

    def answer(self, asks: Sequence[Ask]) -> list[Values]:
        """Return the requested outputs of images of one shape, computed in one run."""
        names = tuple(dict.fromkeys(name for ask in asks for name in ask.outputs))
        found = self.run([ask.image for ask in asks], names)
        return [{name: found[name][index] for name in ask.outputs} for index, ask in enumerate(asks)]

    def run(self, images: Sequence[Image], outputs: Sequence[str] = (MASK,)) -> Values:
        """Return outputs of images, (H, W, C) of one shape, by name: (B, H, W) or (B, K, H, W)."""
        try:
            found = self._run(images, outputs)
        except InvalidImageError:
            raise
        except Exception:
            self.failures += 1
            if self.failures == MAX_FAILURES:
                self._try_blank((images[0].shape[0], images[0].shape[1]))
            raise
        self.failures = 0
        return found

    def _try_blank(self, size: tuple[int, int]) -> None:
        """Run a blank image; reset the failures if it succeeds, else count one more."""
        try:
            self._run([blank_image(self.predictor.preprocessing, size)], (MASK,))
        except Exception as error:  # the caller raises the error of the previous image
            log.error("a blank image of %d x %d fails too", *size, exc_info=error)
            self.failures += 1
        else:
            self.failures = 0

    def _run(self, images: Sequence[Image], outputs: Sequence[str]) -> Values:
        if self.is_cut((images[0].shape[0], images[0].shape[1])):
            return self._run_tiles(images, outputs)
        count = len(images)
        size = self._batch_size(count)
        batch = images[0][None] if size == 1 else np.stack([*images, *[images[-1]] * (size - count)])
        found = self.predictor.infer(batch, outputs)
        for name, values in found.items():
            if (len(values), *values.shape[-2:]) != batch.shape[:3]:
                raise ValueError(f"got {name} of shape {values.shape} for images of {batch.shape}")
        return {name: values[:count] for name, values in found.items()}

    def _run_tiles(self, images: Sequence[Image], outputs: Sequence[str]) -> Values:
        assert self.tiling is not None
        found = [
            predict_tiles(self.predictor, image, self.tiling, outputs, self.max_batch).outputs
            for image in images
        ]
        return {name: np.stack([each[name] for each in found]) for name in outputs}

    def _batch_size(self, count: int) -> int:
        least = max(count, self.limits.low[0])
        if not self._few_shapes:
            return least
        return min(1 << (least - 1).bit_length(), max(least, self.max_batch))

    def warm_up(self) -> None:
        """Run blank images in every batch size."""
        counts = range(1, self.max_batch + 1) if self._few_shapes else (1,)
        for size in sorted({self._batch_size(count) for count in counts}):
            for _ in range(WARM_RUNS if self._few_shapes else 1):
                self.run([self.blank()] * size)

    def blank(self) -> Image:
        """Return a blank image of a size that the network takes."""
        preprocessing = self.predictor.preprocessing
        return blank_image(preprocessing, self.limits.clamp(preprocessing.imgsz))


def blank_image(preprocessing: Preprocessing, size: tuple[int, int]) -> Image:
    """Return a gray image, or one of the mean color if images are not 8-bit RGB, (H, W, C)."""
    format_ = preprocessing.format
    color = (BLANK,) * 3 if format_.is_rgb else preprocessing.color
    return format_.filled(size, color)
