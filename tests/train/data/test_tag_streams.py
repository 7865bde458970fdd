"""The streams of a method that learns tags: what the labeled images bring, and which they are."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from zoo.classes import IGNORE, Classes
from zoo.data.partition import Partition
from zoo.data.source import Source, Split
from zoo.train.data.loaders import BatchStream
from zoo.train.data.streams import TrainingData
from zoo.train.method import Batch, Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

PHASES = (Phase("train", 20, strong=1, tags=True),)
WHOLE = {"data.resize": "stretch", "data.augment": {"scale": [1, 1], "jitter": [0, 0, 0, 0], "grayscale": 0}}
LABELED, UNLABELED = ("train/0", "train/1"), ("train/2", "train/3", "unlabeled/4")


class Specks(Source):
    """Images of one color, their number, with a single pixel of their class in a large mask."""

    def __init__(self) -> None:
        super().__init__("specks", Classes.of(("background", "a", "b", "c", "d")))

    def ids(self, split: Split) -> tuple[str, ...]:
        return tuple(id_ for id_ in (*LABELED, *UNLABELED) if id_.startswith(split))

    def read_image(self, id_: str) -> NDArray[np.uint8]:
        return np.full((320, 480, 3), int(id_[-1]), np.uint8)

    def read_mask(self, id_: str) -> NDArray[np.uint8]:
        assert id_ in LABELED
        mask = np.zeros((320, 480), np.uint8)
        mask[:10] = IGNORE
        mask[161, 241] = int(id_[-1]) + 1
        return mask


@pytest.fixture
def stream(load_tiny: Load) -> Callable[..., BatchStream]:
    """Return a builder of the stream of a method, by its phases and the tags that are known."""

    def build(phases: tuple[Phase, ...] = PHASES, **tags: tuple[int, ...]) -> BatchStream:
        partition = Partition("2", 0, LABELED, UNLABELED)
        partition = dataclasses.replace(partition, tags={f"train/{k[-1]}": v for k, v in tags.items()})
        return BatchStream(load_tiny(WHOLE | {"data.batch_l": 3}), Specks(), partition, phases)

    return build


def numbers(batch: Batch) -> list[int]:
    return [int(image[0, 0, 0]) for image in batch.image_l]


def same(first: Any, second: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True) if a is not None)


def test_tags_are_counted_before_the_resize_and_without_void(stream: Callable[..., BatchStream]) -> None:
    for batch in (stream()[step] for step in range(4)):
        assert batch.tags_l is not None
        assert (batch.tags_l.dtype, tuple(batch.tags_l.shape)) == (torch.bool, (3, 5))
        for number, tags in zip(numbers(batch), batch.tags_l.tolist(), strict=True):
            assert [k for k, is_shown in enumerate(tags) if is_shown] == [0, number + 1]


def test_images_whose_tags_alone_are_known_are_labeled_ones_of_unknown_pixels(
    stream: Callable[..., BatchStream],
) -> None:
    batches = [stream(image_3=(0, 4))[step] for step in range(6)]
    seen = {
        number: (tags, label)
        for batch in batches
        for number, tags, label in zip(numbers(batch), batch.tags_l.tolist(), batch.label_l, strict=True)
    }
    assert set(seen) == {0, 1, 3}
    assert seen[3][0] == [True, False, False, False, True]
    assert bool((seen[3][1] == IGNORE).all())
    assert not bool((seen[0][1] == IGNORE).all())


def test_the_unlabeled_stream_is_the_same_with_and_without_tags(stream: Callable[..., BatchStream]) -> None:
    plain, tagged = stream(), stream(image_2=(0,), image_3=(0, 4))
    for step in range(5):
        assert same(plain[step][2:5], tagged[step][2:5])


def test_tags_change_nothing_for_a_method_that_learns_none(stream: Callable[..., BatchStream]) -> None:
    phases = (Phase("train", 20, strong=1),)
    plain, tagged = stream(phases), stream(phases, image_3=(0, 4))
    for step in range(5):
        assert tagged[step].tags_l is None
        assert same(plain[step], tagged[step])


def test_a_phase_that_does_not_ask_for_tags_gets_none(stream: Callable[..., BatchStream]) -> None:
    mixed = stream((Phase("first", 2), Phase("second", 3, tags=True)))
    assert [mixed[step].tags_l is None for step in range(5)] == [True, True, False, False, False]


class HalfVoid(Specks):
    """Specks whose first mask is ignored throughout."""

    def read_mask(self, id_: str) -> NDArray[np.uint8]:
        mask = super().read_mask(id_)
        return np.full_like(mask, IGNORE) if id_ == LABELED[0] else mask


def test_images_whose_masks_are_ignored_throughout_teach_no_tags(load_tiny: Load) -> None:
    data = TrainingData(load_tiny(WHOLE), HalfVoid(), Partition("2", 0, LABELED, UNLABELED))
    assert data.for_phases(PHASES).partition.labeled == LABELED[1:]
    assert data.for_phases((Phase("train", 20),)).partition.labeled == LABELED
