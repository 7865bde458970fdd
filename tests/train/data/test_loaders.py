from __future__ import annotations

import errno
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from zoo.classes import IGNORE, Classes
from zoo.data.open import open_source
from zoo.data.partition import Partition, make_partition
from zoo.data.source import Source, Split
from zoo.train.data.loaders import WORKER, BatchStream, batches
from zoo.train.method import Batch, Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

PHASES = (Phase("alone", 2, unlabeled=0), Phase("both", 30, strong=1))
PLAIN = {"data.augment": {"scale": [1, 1], "flip": 0, "jitter": [0, 0, 0, 0], "grayscale": 0}}


class Numbered(Source):
    """Images that are of one color, their number: ten to train, six without masks."""

    def __init__(self) -> None:
        super().__init__("numbered", Classes.of(("a", "b")))
        self.masks_read: list[str] = []

    def ids(self, split: Split) -> tuple[str, ...]:
        numbers = {"train": range(10), "unlabeled": range(10, 16), "val": range(16, 17)}[split]
        return tuple(map(str, numbers))

    def read_image(self, id_: str) -> NDArray[np.uint8]:
        return np.full((32, 32, 3), int(id_), np.uint8)

    def read_mask(self, id_: str) -> NDArray[np.uint8]:
        self.masks_read.append(id_)
        return np.full((32, 32), int(id_) % 2, np.uint8)


@pytest.fixture(scope="module")
def partition() -> Partition:
    return make_partition(Numbered(), "4", 0)


@pytest.fixture
def stream(load_tiny: Load, partition: Partition) -> Callable[..., BatchStream]:
    """Return a builder of the stream of numbered images."""

    def build(changes: dict[str, Any] | None = None, **place: int) -> BatchStream:
        return BatchStream(load_tiny(changes), Numbered(), partition, PHASES, **place)

    return build


def read(stream: BatchStream, start: int, steps: int, workers: int = 0) -> list[Batch]:
    return list(batches(stream, start, steps, workers=workers, pin_memory=False))


def same(first: Batch, second: Batch) -> bool:
    return all(
        a is b if a is None or b is None else torch.equal(a, b) for a, b in zip(first, second, strict=True)
    )


def numbers(stream: BatchStream, part: str, steps: range) -> list[int]:
    """Return which images the batches of these steps show, in order."""
    return [int(image[0, 0, 0]) for step in steps for image in getattr(stream[step], part)]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_batch_depends_on_the_step_whatever_the_workers_and_the_start(
    workers: int, stream: Callable[..., BatchStream]
) -> None:
    expected = [stream()[step] for step in range(6)]
    for start in (0, 1, 4):
        found = read(stream(), start, 6, workers)
        assert len(found) == 6 - start
        assert all(same(*pair) for pair in zip(found, expected[start:], strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_leaves_the_global_random_state_alone(
    workers: int, stream: Callable[..., BatchStream]
) -> None:
    torch.manual_seed(7)
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    read(stream(), 0, 4, workers)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)


def test_the_global_random_state_changes_no_batch(stream: Callable[..., BatchStream]) -> None:
    torch.manual_seed(1)
    first = stream()[3]
    torch.manual_seed(2)
    assert same(first, stream()[3])


@pytest.mark.gpu
def test_reading_leaves_the_random_state_of_a_gpu_alone(stream: Callable[..., BatchStream]) -> None:
    torch.cuda.manual_seed(7)
    before = torch.cuda.get_rng_state()
    read(stream(), 0, 4)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_another_seed_gives_other_images_and_another_augmentation(
    stream: Callable[..., BatchStream],
) -> None:
    orders = {tuple(numbers(stream(PLAIN | {"seed": seed}), "image_u", range(2, 8))) for seed in range(3)}
    assert len(orders) == 3
    assert not same(stream({"seed": 0})[3], stream({"seed": 1})[3])


@pytest.mark.parametrize(("part", "start", "passes"), [("image_l", 0, 4), ("image_u", 6, 2)])
def test_every_image_appears_once_in_a_pass(
    part: str, start: int, passes: int, stream: Callable[..., BatchStream], partition: Partition
) -> None:
    ids = {"image_l": partition.labeled, "image_u": partition.unlabeled}[part]
    length = len(ids) // 2
    orders = [
        numbers(stream(PLAIN), part, range(start + length * i, start + length * (i + 1)))
        for i in range(passes)
    ]
    assert all(Counter(order) == Counter(map(int, ids)) for order in orders)
    assert len(set(map(tuple, orders))) > 1  # shuffled anew


def test_a_pass_may_end_within_a_batch(stream: Callable[..., BatchStream]) -> None:
    changes = PLAIN | {"data.batch_l": 3}
    found = numbers(stream(changes), "image_l", range(4))
    assert [len(set(found[i : i + 4])) for i in (0, 4, 8)] == [4, 4, 4]


def test_a_batch_may_be_larger_than_the_data(stream: Callable[..., BatchStream]) -> None:
    found = numbers(stream(PLAIN | {"data.batch_l": 9}), "image_l", range(1))
    assert len(found) == 9
    assert len(set(found)) == 4


def test_labeled_and_unlabeled_images_are_disjoint_and_masks_of_the_second_are_not_read(
    load_tiny: Load, partition: Partition
) -> None:
    source = Numbered()
    stream = BatchStream(load_tiny(PLAIN), source, partition, PHASES)
    labeled = set(numbers(stream, "image_l", range(2, 12)))
    unlabeled = set(numbers(stream, "image_u", range(2, 12)))
    assert labeled == set(map(int, partition.labeled))
    assert unlabeled == set(map(int, partition.unlabeled)) == set(range(16)) - labeled
    assert set(source.masks_read) == set(partition.labeled)


def test_the_batches_of_a_step_come_one_after_the_other(stream: Callable[..., BatchStream]) -> None:
    changes = PLAIN | {"data.batch_l": 1}
    several, alone = stream(changes | {"accumulate": 3}), stream(changes)
    assert [several[number].image_u is None for number in range(8)] == [True] * 6 + [False] * 2
    assert [alone[number].image_u is None for number in range(4)] == [True] * 2 + [False] * 2
    assert numbers(several, "image_l", range(12)) == numbers(alone, "image_l", range(12))


def test_processes_share_the_sequence_of_one(stream: Callable[..., BatchStream]) -> None:
    ranks = [stream(PLAIN, rank=rank, world=2) for rank in (0, 1)]
    alone = stream(PLAIN | {"data.batch_l": 4, "data.batch_u": 4})
    for step in range(2, 8):
        for part in ("image_l", "image_u"):
            together = [n for rank in ranks for n in numbers(rank, part, range(step, step + 1))]
            assert together == numbers(alone, part, range(step, step + 1))
    # within one pass of the four labeled images, all of them are seen
    assert len(set(numbers(ranks[0], "image_l", range(1)) + numbers(ranks[1], "image_l", range(1)))) == 4


def test_processes_see_the_augmentation_of_one(stream: Callable[..., BatchStream]) -> None:
    first, second = (stream(rank=rank, world=2)[3] for rank in (0, 1))
    alone = stream({"data.batch_l": 4, "data.batch_u": 4})[3]
    pairs = zip(first, second, strict=True)
    together = Batch(*(None if a is None else torch.cat([a, b]) for a, b in pairs))
    assert same(together, alone)


def test_each_image_brings_random_numbers_of_its_own(stream: Callable[..., BatchStream]) -> None:
    draws = torch.cat([stream(rank=rank, world=2)[number].draws for rank in (0, 1) for number in (2, 3, 4)])
    assert len(draws.unique()) == draws.numel()
    assert draws.min() >= 0
    assert draws.max() < 1
    assert torch.equal(stream()[3].draws, stream()[3].draws)
    assert not torch.equal(stream()[3].draws, stream({"seed": 1})[3].draws)


def test_the_views_of_labeled_images_differ_in_the_first_stream_and_have_numbers_of_their_own(
    load_tiny: Load, partition: Partition
) -> None:
    jitter = {"data.augment": PLAIN["data.augment"] | {"jitter": [0.5, 0, 0, 0], "grayscale": 0}}

    def batch(view: str) -> Batch:
        recipe = load_tiny(jitter | {"data.labeled_view": view})
        return BatchStream(recipe, Numbered(), partition, (Phase("a", 9, labeled=2),))[3]

    weak, cutmix, strong = (batch(view) for view in ("weak", "cutmix", "strong"))
    assert weak.draws_l is None
    count = len(weak.image_l) // 2
    assert cutmix.draws_l is not None
    assert cutmix.draws_u is not None
    assert len(cutmix.draws_l) == count
    assert not torch.equal(cutmix.draws_l, cutmix.draws_u[:count])
    assert same(weak, cutmix._replace(draws_l=None))
    assert not torch.equal(weak.image_l[:count], strong.image_l[:count])
    assert torch.equal(weak.image_l[count:], strong.image_l[count:])
    assert same(cutmix, strong._replace(image_l=cutmix.image_l))
    assert same(strong, batch("strong"))


def test_a_phase_that_declares_none_has_no_unlabeled_part(stream: Callable[..., BatchStream]) -> None:
    found = read(stream(), 0, 4)
    assert [batch.image_u is None for batch in found] == [True, True, False, False]
    assert set(found[1][3:]) == {None}


def test_a_run_that_never_asks_for_unlabeled_images_needs_none(load_tiny: Load) -> None:
    source = Numbered()
    partition = Partition("full", 0, source.ids("train"), ())
    stream = BatchStream(load_tiny(), source, partition, (Phase("train", 4, unlabeled=0),))
    assert stream[3].image_l.shape == (2, 3, 32, 32)


def test_batches_have_the_documented_types(stream: Callable[..., BatchStream]) -> None:
    batch = stream()[2]
    assert batch.tags_l is batch.draws_l is None
    assert [(type(value), value.dtype, tuple(value.shape)) for value in batch[:-2]] == [
        (torch.Tensor, torch.uint8, (2, 3, 32, 32)),
        (torch.Tensor, torch.int64, (2, 32, 32)),
        (torch.Tensor, torch.bool, (2, 32, 32)),
        (torch.Tensor, torch.uint8, (2, 3, 32, 32)),
        (torch.Tensor, torch.bool, (2, 32, 32)),
        (torch.Tensor, torch.uint8, (2, 3, 32, 32)),
        (torch.Tensor, torch.int32, (2, 12)),
    ]


def test_a_phase_gets_as_many_streams_as_it_asks_for(load_tiny: Callable[..., Recipe]) -> None:
    recipe = load_tiny(PLAIN)
    source = open_source(recipe.data.spec)
    partition = make_partition(source, recipe.data.partition, recipe.seed)
    batch = BatchStream(recipe, source, partition, (Phase("all", 4, labeled=2, unlabeled=3),))[1]
    assert (len(batch.image_l), len(batch.label_l)) == (4, 4)
    assert (len(batch.weak[0]), len(batch.weak[1])) == (6, 6)
    assert batch.image_u_s is None
    alone = BatchStream(recipe, source, partition, (Phase("one", 4),))[1]
    assert torch.equal(batch.image_l[:2], alone.image_l)
    assert torch.equal(batch.weak[0][:2], alone.weak[0])
    assert not torch.equal(batch.weak[0][:2], batch.weak[0][2:4])


def test_a_phase_gets_as_many_strong_views_as_it_asks_for(load_tiny: Load, partition: Partition) -> None:
    one, two = (
        BatchStream(load_tiny(), Numbered(), partition, (Phase("train", 4, strong=count),))[1]
        for count in (1, 2)
    )
    first, second = two.strong.chunk(2)
    assert same(two._replace(image_u_s=first), one)
    assert not torch.equal(first, second)
    plain = BatchStream(load_tiny(PLAIN), Numbered(), partition, (Phase("train", 4, strong=2),))[1]
    assert torch.equal(plain.strong, torch.cat([plain.weak[0], plain.weak[0]]))  # of the same pixels


def test_padding_is_unknown_in_labels_and_not_valid(
    stream: Callable[..., BatchStream],
) -> None:
    changes = PLAIN | {"data.augment.scale": [0.5, 0.5]}
    batch = stream(changes)[2]
    assert batch.label_l[0].ne(IGNORE).sum() == 16 * 16
    assert torch.equal(batch.valid_l, batch.label_l != IGNORE)  # these masks have no void pixel
    assert batch.valid_u is not None
    assert batch.valid_u[0].sum() == 16 * 16
    assert batch.image_u is not None
    number = batch.image_u[0][:, batch.valid_u[0]].unique()
    assert number.numel() == 1


class CutOff(BatchStream):
    """Batches whose sender is gone while they are received."""

    def __getitem__(self, number: int) -> Any:
        return Unreceived()


class Unreceived:
    def __reduce__(self) -> Any:
        return received, ()


def received() -> None:
    raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


def test_a_worker_that_dies_while_it_sends_a_batch_is_one_that_died(
    load_tiny: Load, partition: Partition
) -> None:
    stream = CutOff(load_tiny(), Numbered(), partition, PHASES)
    with (
        closing(batches(stream, 0, 2, workers=1, pin_memory=False)) as found,
        pytest.raises(RuntimeError, match=f"^{WORKER} died while it sent a batch: .*reset by peer"),
    ):
        next(found)
