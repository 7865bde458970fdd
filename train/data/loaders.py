"""Batches as a function of their number: a run sees the same data resumed or not, with any number of workers.

Each stream (labeled, unlabeled) is an endless sequence of shuffled passes over its images. Image and
augmentation at a position of the sequence follow from (seed, stream, position) alone, so a resumed run has
nothing to restore.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.data.datasets import LabeledImages, TaggedImages, UnlabeledImages
from zoo.train.data.augment import strong_view, weak_view
from zoo.train.data.cache import with_cache
from zoo.train.method import DRAW_RANGE, DRAWS, Batch, Phase, phase_at

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from numpy.typing import NDArray

    from zoo.data.partition import Partition
    from zoo.data.source import Source
    from zoo.train.recipe.schema import Recipe

LABELED, UNLABELED = 0, 1
MIXING = 1
"""Sets the numbers of `Batch.draws_u` apart from those that an image's views are drawn from."""
WORKER = "DataLoader worker"
"""What torch begins with where one died."""


class BatchStream(Dataset[Batch]):
    """The batches of a run by number, `accumulate` for each step, on the CPU, images uint8.

    The streams of a kind see all its images, each in an order of its own. Images whose tags alone are known
    count as labeled ones for a method that learns tags.

    Args:
        recipe: sizes, augmentation, seed.
        source: of the images.
        partition: which are labeled.
        phases: of the run; they say which streams a batch has.
        rank: of this process.
        world: number of processes; each sees its own part of every global batch.

    Raises:
        ZooError: the recipe's cache of decoded images cannot be had; see `zoo.train.data.cache`.
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
        self.weak = weak_view(recipe.preprocessing, data.augment)
        self.strong = strong_view(data.augment)

    def __getitem__(self, number: int) -> Batch:
        """Return a batch (0-based)."""
        phase = phase_at(number // self.accumulate, self.phases)[0]
        labeled = self._places(number, phase.labeled, self.batch_l)
        image_l, label_l, valid_l, *tags = _stacked(self._labeled(*place) for place in labeled)
        batch = Batch(image_l, label_l, valid_l, tags_l=tags[0] if phase.tags else None)
        if not phase.unlabeled:
            return batch
        unlabeled = self._places(number, phase.unlabeled, self.batch_u)
        image_u, valid_u, *strong = _stacked(self._unlabeled(*place, phase.strong) for place in unlabeled)
        batch = batch._replace(
            image_u=image_u, valid_u=valid_u, image_u_s=torch.cat(strong) if strong else None
        )
        return batch._replace(draws_u=torch.stack([self._draws(*place) for place in unlabeled]))

    def _places(self, number: int, streams: int, batch: int) -> list[tuple[int, int]]:
        """Return the stream and the position in it of each image of a batch, stream by stream."""
        start = (number * self.world + self.rank) * batch
        return [(stream, start + index) for stream in range(streams) for index in range(batch)]

    def _labeled(self, stream: int, position: int) -> tuple[Tensor, ...]:
        kind = 2 * stream + LABELED
        image, mask, *tags = self.labeled[_index(self.seed, kind, position, len(self.labeled))]
        with _seeded(self.seed, kind, position):
            image, mask, valid = self.weak(image, mask)
        return image, mask.long(), valid, *tags

    def _unlabeled(self, stream: int, position: int, strong: int) -> tuple[Tensor, ...]:
        kind = 2 * stream + UNLABELED
        image = self.unlabeled[_index(self.seed, kind, position, len(self.unlabeled))]
        with _seeded(self.seed, kind, position):
            weak, _, valid = self.weak(image)
            return weak, valid, *(self.strong(weak) for _ in range(strong))

    def _draws(self, stream: int, position: int) -> Tensor:
        random = np.random.default_rng([self.seed, 2 * stream + UNLABELED, position, MIXING])
        return torch.from_numpy(random.integers(DRAW_RANGE, size=DRAWS, dtype=np.int32))


def _stacked(items: Iterable[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(each) for each in zip(*items, strict=True)]


def batches(
    stream: BatchStream, start: int, stop: int, *, workers: int, pin_memory: bool
) -> Generator[Batch, None, None]:
    """Yield the batches from number `start` to `stop`; the global random state is left alone.

    Close it where it may not come to its end: its workers ignore SIGTERM, by which Python ends what is left
    of them, and would wait for them for ever.

    Raises:
        RuntimeError: that begins with `WORKER`, for one that died.
    """
    loader: DataLoader[Batch] = DataLoader(
        stream,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),
        worker_init_fn=_leave_signals,
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


def _leave_signals(worker: int) -> None:  # noqa: ARG001
    """Leave Ctrl-C and SIGTERM, which reach the whole process group, to the training process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@lru_cache(maxsize=8)
def _permutation(seed: int, stream: int, epoch: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, stream, epoch]).permutation(length)


def _index(seed: int, stream: int, position: int, length: int) -> int:
    """Return which image stands at a position of the sequence of shuffled passes."""
    epoch, offset = divmod(position, length)
    return int(_permutation(seed, stream, epoch, length)[offset])


@contextmanager
def _seeded(seed: int, stream: int, position: int) -> Iterator[None]:
    """Draw random numbers that follow from (seed, stream, position); the global state is restored."""
    with torch.random.fork_rng(devices=[]):
        state = np.random.SeedSequence([seed, stream, position]).generate_state(1, np.uint64)
        torch.default_generator.manual_seed(int(state[0] >> np.uint64(1)))  # torch.manual_seed seeds GPUs too
        yield
