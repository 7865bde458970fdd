from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from zoo.classes import Classes
from zoo.errors import InvalidImageError
from zoo.predictors.base import Predictor
from zoo.predictors.outputs import resize_output
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.preprocess import Preprocessing
from zoo.serve.server.core.errors import ModelFailedError, QueueFullError, TooLargeError
from zoo.serve.server.core.model import About, Model
from zoo.serve.server.core.settings import ServerSettings
from zoo.serve.server.core.timing import Timings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from pathlib import Path

    StandIn = Callable[..., Predictor]

RED = (255, 0, 0)


def soon() -> float:
    return time.monotonic() + 5


def picture(height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image[0, 0] = 0
    return image


async def predict(model: Model, image: np.ndarray, output: str = "mask") -> np.ndarray:
    """Return an output of an image of any size, at the image's size, as `POST /predict` does."""
    [values] = await model.run(model.resized(image)[None], deadline=soon(), outputs=(output,))
    return resize_output(output, values[output], image.shape[:2])


def with_model(
    predictor: Predictor,
    body: Callable[[Model], Coroutine[Any, Any, None]],
    *,
    few_shapes: bool = False,
    **settings: Any,
) -> None:
    """Run a coroutine function on a started model and stop it."""

    async def main() -> None:
        model = Model("m", predictor, ServerSettings(**settings), few_shapes=few_shapes)
        await model.start()
        try:
            await body(model)
        finally:
            await model.stop()

    asyncio.run(main())


@pytest.mark.parametrize("resize", ["fit", "stretch", "none"])
def test_masks_of_images_of_any_size_are_those_of_the_predictor(stand_in: StandIn, resize: str) -> None:
    images = [picture(*size) for size in ((64, 64), (37, 90), (200, 100), (64, 64))]
    expected = [stand_in(resize=resize).predict(image) for image in images]

    async def body(model: Model) -> None:
        masks = await asyncio.gather(*(predict(model, image) for image in images))
        for mask, right in zip(masks, expected, strict=True):
            assert mask.dtype == np.uint8
            assert np.array_equal(mask, right)

    with_model(stand_in(resize=resize), body)


def test_only_images_of_one_network_size_run_together(stand_in: StandIn) -> None:
    predictor = stand_in()

    async def body(model: Model) -> None:
        sizes = [(64, 64), (64, 32), (128, 128), (32, 16), (64, 64), (64, 32)]
        await asyncio.gather(*(predict(model, picture(*size)) for size in sizes))

    with_model(predictor, body, max_wait_ms=2000, max_batch=3)
    assert sorted(predictor.shapes[1:]) == [(3, 64, 32, 3), (3, 64, 64, 3)]


def test_a_model_is_ready_once_it_has_run(stand_in: StandIn) -> None:
    predictor = stand_in()

    async def body(model: Model) -> None:
        assert predictor.shapes == [(1, 64, 64, 3)]
        assert model.ready
        await model.start()
        assert len(predictor.shapes) == 1

    model = Model("m", predictor, ServerSettings())
    assert not model.ready
    with_model(predictor, body)


def test_batches_of_a_backend_that_sets_up_shapes_are_filled_up(stand_in: StandIn) -> None:
    predictor = stand_in()

    async def body(model: Model) -> None:
        assert {shape[0] for shape in predictor.shapes} == {1, 2, 4, 6}  # warm
        predictor.shapes.clear()
        images = [picture(seed=seed) for seed in range(3)]
        masks = await asyncio.gather(*(predict(model, image) for image in images))
        for mask, image in zip(masks, images, strict=True):
            assert np.array_equal(mask, image[..., 0] >> 7)
        await asyncio.gather(*(predict(model, image) for image in [images[0]] * 5))

    with_model(predictor, body, few_shapes=True, max_batch=6, max_wait_ms=30)
    assert [shape[0] for shape in predictor.shapes] == [4, 6]


def test_an_image_that_the_backend_fails_on_fails_alone_and_its_message_tells_no_path(
    stand_in: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    bad = picture()
    bad[0, 0] = RED

    async def body(model: Model) -> None:
        images = [picture(seed=1), bad, picture(seed=2)]
        got = await asyncio.gather(*(predict(model, image) for image in images), return_exceptions=True)
        assert isinstance(got[1], ModelFailedError)
        assert "secret" not in str(got[1])
        assert np.array_equal(got[0], images[0][..., 0] >> 7)
        assert np.array_equal(got[2], images[2][..., 0] >> 7)

    with caplog.at_level(logging.ERROR):
        with_model(stand_in(), body)
    assert "secret" in caplog.text


def test_a_batch_of_a_client_keeps_its_order_and_is_mixed_with_other_requests(stand_in: StandIn) -> None:
    predictor = stand_in()
    images = np.stack([picture(seed=seed) for seed in range(5)])

    async def body(model: Model) -> None:
        timings = Timings()
        found, mask = await asyncio.gather(
            model.run(images, deadline=soon(), timings=timings), predict(model, images[0])
        )
        masks = [values["mask"] for values in found]
        assert np.array_equal(masks, images[..., 0] >> 7)
        assert np.array_equal(mask, masks[0])
        assert timings.compute_s >= 0.006

    with_model(predictor, body, max_wait_ms=50)
    assert [shape[0] for shape in predictor.shapes[1:]] == [6]


def test_a_batch_needs_a_place_for_each_image(stand_in: StandIn) -> None:
    images = np.stack([picture()] * 3)

    async def body(model: Model) -> None:
        with model.admit() as place:
            await model.run(images, deadline=soon(), place=place)  # one and two more
        with model.admit(2), pytest.raises(QueueFullError):
            await model.run(images, deadline=soon())
        with pytest.raises(TooLargeError, match="5 images at once, expected at most 4"):
            await model.run(np.stack([picture()] * 5), deadline=soon())

    with_model(stand_in(), body, queue=2, max_batch=2)


def test_places_are_free_again_after_errors(stand_in: StandIn) -> None:
    bad = picture()
    bad[0, 0] = RED

    async def body(model: Model) -> None:
        for _ in range(10):
            with pytest.raises(ModelFailedError):
                await predict(model, bad)
        task = asyncio.create_task(predict(model, picture()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        model.admit(4)

    with_model(stand_in(), body, queue=2, max_batch=2)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)],
)
def test_what_is_no_image_is_refused(stand_in: StandIn, image: np.ndarray) -> None:
    async def body(model: Model) -> None:
        with pytest.raises(InvalidImageError):
            await predict(model, image)

    with_model(stand_in(), body)


def test_a_probe_runs_though_the_queue_is_full(stand_in: StandIn) -> None:
    predictor = stand_in()

    async def body(model: Model) -> None:
        place = model.admit(4)
        with pytest.raises(QueueFullError):
            model.admit()
        before = len(predictor.shapes)
        await model.probe()
        assert len(predictor.shapes) == before + 1
        with place:
            pass

    with_model(predictor, body, queue=2, max_batch=2)


def test_an_onnx_file_of_a_fixed_height_takes_no_other(
    write_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    predictor = OrtPredictor(write_onnx(tmp_path / "m.onnx", height=64), threads=1)

    async def body(model: Model) -> None:
        assert model.takes_batches
        image = picture(64, 64)
        mask = await predict(model, image)
        assert np.array_equal(mask, image.sum(axis=2, dtype=np.int32) > 384)
        with pytest.raises(InvalidImageError, match=r"expected 64 x 1\.\.any"):
            await predict(model, picture(32, 64))

    with_model(predictor, body)


def test_a_model_tells_what_it_is(stand_in: StandIn) -> None:
    about = About(version="3", path="/x", fingerprint="f00", reason="as asked", card="# Card")
    model = Model("m", stand_in((32, 48)), ServerSettings(max_batch=3), about)
    assert (model.version, model.path, model.fingerprint, model.reason, model.card) == about
    assert model.backend == model.description == "stand-in"
    assert model.classes.names == ("dark", "bright")
    assert model.preprocessing.imgsz == (32, 48)
    assert model.max_batch == 3
    assert model.waiting == 0


class Sure(Predictor):
    """Gives red as confidence; remembers what it was asked for."""

    backend = "sure"
    available = ("mask", "confidence")

    def __init__(self) -> None:
        super().__init__(Classes.of(("dark", "bright")), Preprocessing(imgsz=(64, 64)))
        self.asked: list[tuple[int, tuple[str, ...]]] = []

    def infer(self, images: np.ndarray, outputs: Sequence[str] = ("mask",)) -> dict[str, np.ndarray]:
        self.asked.append((len(images), tuple(outputs)))
        found = {"mask": images[..., 0] >> 7, "confidence": images[..., 0]}
        return {name: found[name] for name in outputs}


def test_requests_for_different_outputs_share_a_batch() -> None:
    predictor = Sure()
    images = [picture(seed=seed) for seed in range(2)]

    async def body(model: Model) -> None:
        assert model.outputs == ("mask", "confidence")
        mask, sure = await asyncio.gather(
            predict(model, images[0]),
            predict(model, images[1], "confidence"),
        )
        assert np.array_equal(mask, images[0][..., 0] >> 7)
        assert np.array_equal(sure, images[1][..., 0])

    with_model(predictor, body, max_wait_ms=2000, max_batch=2)
    assert predictor.asked[1:] == [(2, ("mask", "confidence"))]
