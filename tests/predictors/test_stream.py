from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from zoo.errors import BundleError, InvalidImageError
from zoo.predict.stream import BATCH, THREADS, Failed, Options, stream
from zoo.predictors.load import load_predictor
from zoo.predictors.runtimes.ort import OrtPredictor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    WriteLinear = Callable[..., Path]

SIZES = ((64, 48), (48, 64), (33, 47), (64, 48), (90, 61), (64, 64))


def images(count: int, sizes: tuple[tuple[int, int], ...] = SIZES) -> list[Image]:
    random = np.random.default_rng(count)
    return [random.integers(0, 256, (*sizes[index % len(sizes)], 3), np.uint8) for index in range(count)]


class Watched(OrtPredictor):
    """Remembers the shapes of its batches and the threads it ran in."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, threads=1)
        self.shapes: list[tuple[int, ...]] = []
        self.threads: set[threading.Thread] = set()

    def infer(self, images: Image, outputs: Sequence[str] = ("mask",)) -> dict[str, NDArray[Any]]:
        self.shapes.append(images.shape[:3])
        self.threads.add(threading.current_thread())
        return super().infer(images, outputs)


@pytest.fixture
def watched(write_linear: WriteLinear, tmp_path: Path) -> Watched:
    return Watched(write_linear(tmp_path / "linear.onnx"))


@pytest.mark.parametrize("batch", [1, 4, None])
def test_the_masks_of_images_of_all_sizes_are_those_of_predict(tiny_bundle: Path, batch: int | None) -> None:
    predictor = load_predictor(tiny_bundle)
    pictures = images(24)
    seen = set()
    options = Options(batch=batch, outputs=("mask", "confidence"))
    for result in stream(predictor, range(24), pictures.__getitem__, options):
        assert not isinstance(result, Failed)
        expected = predictor.predict_with_confidence(pictures[result.item])
        got = result.prediction()
        assert got.mask.dtype == expected.mask.dtype
        assert np.array_equal(got.mask, expected.mask)
        assert got.confidence is not None
        assert expected.confidence is not None
        # PyTorch adds in another order in a batch: a probability that is half-way may be rounded elsewhere
        assert np.abs(got.confidence.astype(int) - expected.confidence).max() <= 1
        seen.add(result.item)
    assert seen == set(range(24))


def test_images_of_one_size_run_in_batches_in_the_callers_thread(watched: Watched) -> None:
    pictures = images(11, ((64, 64),))
    found = [result.item for result in stream(watched, range(11), pictures.__getitem__, Options(batch=4))]
    assert found == list(range(11))
    assert watched.shapes == [(4, 64, 64), (4, 64, 64), (3, 64, 64)]
    assert watched.threads == {threading.current_thread()}


def test_no_more_images_are_asked_for_than_some_batches(watched: Watched) -> None:
    asked = 0

    def endless() -> Iterator[int]:
        nonlocal asked
        while True:
            asked += 1
            yield asked

    pictures = images(len(SIZES))
    results = stream(watched, endless(), lambda item: pictures[item % len(SIZES)], Options(batch=2))
    for _ in range(20):
        next(results)
    results.close()
    assert asked <= 20 + 5 * 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("zoo-read")]


def test_large_images_come_in_smaller_batches() -> None:
    batches = [Options().batch_of(size) for size in ((64, 64), (512, 512), (1024, 1024), (4000, 6000))]
    assert batches == [BATCH, BATCH, 2, 1]
    assert Options(batch=3).batch_of((4000, 6000)) == 3
    assert Options(batch=3, most=2).batch_of((64, 64)) == 2
    assert Options(batch=3, least=5, most=5).batch_of((64, 64)) == 5
    assert Options().most == sys.maxsize
    assert THREADS >= 1


def test_a_file_of_a_fixed_batch_gets_full_ones(watched: Watched) -> None:
    pictures = images(5, ((64, 64),))
    results = list(stream(watched, range(5), pictures.__getitem__, Options(least=4, most=4)))
    assert watched.shapes == [(4, 64, 64), (4, 64, 64)]
    assert [result.item for result in results] == list(range(5))
    for result in results:
        assert not isinstance(result, Failed)
        assert np.array_equal(result.prediction().mask, watched.predict(pictures[result.item]))


def test_an_image_that_cannot_be_read_fails_alone(watched: Watched) -> None:
    pictures = images(4, ((64, 64),))

    def read(item: int) -> Image:
        if item == 2:
            raise InvalidImageError("broken")
        return pictures[item] if item != 3 else pictures[item][..., 0]

    results = {result.item: result for result in stream(watched, range(4), read)}
    errors = {item: str(result.error) for item, result in results.items() if isinstance(result, Failed)}
    assert errors[2] == "broken"
    assert errors[3].startswith("got an image of shape (64, 64)")
    assert set(errors) == {2, 3}


class Tight(Watched):
    """Has memory for two images, and none for one that is black."""

    def infer(self, images: Image, outputs: Sequence[str] = ("mask",)) -> dict[str, NDArray[Any]]:
        if len(images) > 2:
            raise RuntimeError("out of memory")
        if not images.any(axis=(1, 2, 3)).all():
            raise BundleError("black")
        return super().infer(images, outputs)


def test_a_batch_that_fails_is_run_image_by_image(write_linear: WriteLinear, tmp_path: Path) -> None:
    predictor = Tight(write_linear(tmp_path / "linear.onnx"))
    pictures = [*images(5, ((64, 64),)), np.zeros((64, 64, 3), np.uint8)]
    results = list(stream(predictor, range(6), pictures.__getitem__, Options(batch=6)))
    assert [(result.item, isinstance(result, Failed)) for result in results] == [
        (item, item == 5) for item in range(6)
    ]


def test_the_image_is_kept_only_if_it_is_wanted(watched: Watched) -> None:
    [picture] = pictures = images(1)
    for keep in (True, False):
        [result] = stream(watched, range(1), pictures.__getitem__, Options(keep_images=keep))
        assert not isinstance(result, Failed)
        assert result.image is (picture if keep else None)
        assert result.seconds > 0
