"""Data loading with batches as a function of their number, independent of resuming and number of workers.

Each stream (labeled, unlabeled) is an endless sequence of shuffled passes over its images. Image and
augmentation at a position of the sequence depend only on (seed, stream, position), so that a resumed run has
nothing to restore.
"""

from __future__ import annotations

import atexit
import os
import signal
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.child import STOPS
from zoo.data.datasets import LabeledImages, TaggedImages, UnlabeledImages
from zoo.train.data.augment import strong_view, weak_view
from zoo.train.data.cache import with_cache
from zoo.train.data.class_pixels import RareClasses, count_pixels
from zoo.train.method import DRAW_RANGE, DRAWS, Batch, Phase, phase_at

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from numpy.typing import NDArray

    from zoo.data.partition import Partition
    from zoo.data.source import Source
    from zoo.train.recipe.schema import Recipe

LABELED, UNLABELED = 0, 1
MIXING = 1
"""Stream of the random numbers of `Batch.draws_u` and `draws_l`, separate from those of an image's views."""
RARE = 2
"""Stream of the random numbers that draw images for a class."""
WORKER = "DataLoader worker"
"""Start of torch's error for a worker that died."""


class BatchStream(Dataset[Batch]):
    """Data set of the batches of a run, `accumulate` for each step, on the CPU, not yet normalized.

    Each stream of a kind covers all images of that kind in its own order. Images with tags but no mask count
    as labeled for methods that learn tags.

    Args:
        recipe: recipe with sizes, augmentation and seed.
        source: source of the images.
        partition: partition into labeled and unlabeled images.
        phases: phases of the run, which determine the streams of a batch.
        rank: rank of this process.
        world: number of processes; each gets its own part of every global batch.

    Raises:
        ZooError: the source or the machine does not support the recipe's cache (`zoo.train.data.cache`).
    """

    def __init__(
        self,
        recipe: Recipe,
        source: Source,
        partition: Partition,
        phases: tuple[Phase, ...],
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        data = recipe.data
        source = with_cache(source, (*partition.labeled, *partition.tags, *partition.unlabeled), data, world)
        self.seed, self.rank, self.world = recipe.seed, rank, world
        self.labeled = (
            TaggedImages(source, partition)
            if any(phase.tags for phase in phases)
            else LabeledImages(source, partition.labeled)
        )
        self.unlabeled = UnlabeledImages(source, partition.unlabeled)
        self.phases, self.accumulate = phases, recipe.accumulate
        self.batch_l, self.batch_u = data.batch_l, data.batch_u
        self.labeled_view, self.rare_share = data.labeled_view, data.rare_classes
        self.rare: RareClasses | None = None
        if data.rare_classes:
            pixels = count_pixels(source, partition.labeled)
            self.rare = RareClasses(pixels, data.rare_class_temperature)
        self.weak = weak_view(recipe.preprocessing, data.augment)
        self.strong = strong_view(data.augment, recipe.preprocessing.format)

    def __getitem__(self, number: int) -> Batch:
        """Return the batch of a number (0-based)."""
        phase = phase_at(number // self.accumulate, self.phases)[0]
        labeled = self._places(number, phase.labeled, self.batch_l)
        views = _stacked(self._labeled(*place) for place in labeled)
        image_l, label_l, valid_l, *tags = views
        batch = Batch(image_l, label_l, valid_l, tags_l=tags[0] if phase.tags else None)
        if self.labeled_view != "weak":
            batch = batch._replace(draws_l=self._draws(LABELED, labeled[: self.batch_l]))
        if not phase.unlabeled:
            return batch
        unlabeled = self._places(number, phase.unlabeled, self.batch_u)
        image_u, valid_u, *strong = _stacked(self._unlabeled(*place, phase.strong) for place in unlabeled)
        batch = batch._replace(
            image_u=image_u, valid_u=valid_u, image_u_s=torch.cat(strong) if strong else None
        )
        return batch._replace(draws_u=self._draws(UNLABELED, unlabeled))

    def _places(self, number: int, streams: int, batch: int) -> list[tuple[int, int]]:
        """Return stream and position of each image of a batch, stream by stream."""
        start = (number * self.world + self.rank) * batch
        return [(stream, start + index) for stream in range(streams) for index in range(batch)]

    def _labeled(self, stream: int, position: int) -> tuple[Tensor, ...]:
        kind = 2 * stream + LABELED
        index, wanted = self._chosen(stream, position)
        image, mask, *tags = self.labeled[index]
        with _seeded(self.seed, kind, position):
            image, mask, valid = self.weak(image, mask, wanted)
            if stream == 0 and self.labeled_view == "strong":
                image = self.strong(image)
        return image, mask.long(), valid, *tags

    def _chosen(self, stream: int, position: int) -> tuple[int, int | None]:
        """Return the index of a labeled image, and the class to crop it for; None for any crop."""
        kind = 2 * stream + LABELED
        if self.rare is not None and stream == 0:
            random = np.random.default_rng([self.seed, kind, position, RARE])
            if random.random() < self.rare_share:
                return self.rare.draw(random)
        return _index(self.seed, kind, position, len(self.labeled)), None

    def _unlabeled(self, stream: int, position: int, strong: int) -> tuple[Tensor, ...]:
        kind = 2 * stream + UNLABELED
        image = self.unlabeled[_index(self.seed, kind, position, len(self.unlabeled))]
        with _seeded(self.seed, kind, position):
            weak, _, valid = self.weak(image)
            return weak, valid, *(self.strong(weak) for _ in range(strong))

    def _draws(self, kind: int, places: list[tuple[int, int]]) -> Tensor:
        """Return the numbers from which images of a kind at these places are mixed."""
        randoms = (np.random.default_rng([self.seed, 2 * stream + kind, at, MIXING]) for stream, at in places)
        draws = [each.integers(DRAW_RANGE, size=DRAWS, dtype=np.int32) for each in randoms]
        return torch.from_numpy(np.stack(draws))


def _stacked(items: Iterable[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(each) for each in zip(*items, strict=True)]


def batches(
    stream: BatchStream, start: int, stop: int, *, workers: int, pin_memory: bool
) -> Generator[Batch, None, None]:
    """Yield the batches from number `start` to `stop`, without changing the global random state.

    Close the generator unless it is exhausted: its workers ignore SIGTERM, by which Python ends remaining
    workers, and would wait for them forever.

    Raises:
        RuntimeError: a worker died; the message starts with `WORKER`.
    """
    loader: DataLoader[Batch] = DataLoader(
        stream,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),
        worker_init_fn=_prepare_worker,
    )
    iterator: Any = iter(loader)
    try:
        yield from iterator
    except (ConnectionError, EOFError) as error:
        if not workers:
            raise
        raise RuntimeError(f"{WORKER} died while it sent a batch: {error}") from error
    finally:
        if workers:
            iterator._shutdown_workers()


def _prepare_worker(worker: int) -> None:  # noqa: ARG001
    """Ignore stop signals, which reach the whole process group, and end without C++ destructors.

    A forked worker ends by `os._exit`. A spawned one would run destructors of threads that still work, which
    abort it; the parent would then report a dead worker.
    """
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    atexit.register(os._exit, 0)


@lru_cache(maxsize=8)
def _permutation(seed: int, stream: int, epoch: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, stream, epoch]).permutation(length)


def _index(seed: int, stream: int, position: int, length: int) -> int:
    """Return the index of the image at a position of the sequence of shuffled passes."""
    epoch, offset = divmod(position, length)
    return int(_permutation(seed, stream, epoch, length)[offset])


@contextmanager
def _seeded(seed: int, stream: int, position: int) -> Iterator[None]:
    """Seed torch by (seed, stream, position) in the block, and restore the global random state."""
    with torch.random.fork_rng(devices=[]):
        state = np.random.SeedSequence([seed, stream, position]).generate_state(1, np.uint64)
        torch.default_generator.manual_seed(int(state[0] >> np.uint64(1)))  # torch.manual_seed seeds GPUs too
        yield
