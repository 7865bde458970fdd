"""What a failed inference leaves: nothing. What threads do to each other: nothing."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.conftest import FRAGILE
from zoo.errors import BundleError, InvalidImageError
from zoo.predictors.limits import Limits
from zoo.predictors.load import load_predictor
from zoo.predictors.runtimes.openvino import OpenVinoPredictor
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.predictors.runtimes.ort_cuda import OrtCudaPredictor
from zoo.predictors.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.predictors.exported import ExportedPredictor

    Images = NDArray[np.uint8]
    Load = Callable[[Path], ExportedPredictor]
    WriteOnnx = Callable[..., Path]

LOADERS: dict[str, Load] = {
    "ort": lambda path: OrtPredictor(path, threads=1),
    "ort bound": lambda path: OrtCudaPredictor(path, "cpu"),
    "openvino": lambda path: OpenVinoPredictor(path, threads=1),
    "openvino, 2 threads": lambda path: OpenVinoPredictor(path, threads=2),
}


@pytest.fixture(params=LOADERS)
def load(request: pytest.FixtureRequest) -> Load:
    if request.param.startswith("openvino"):
        pytest.importorskip("openvino")
    return LOADERS[request.param]


def fragile(seed: int, *, good: bool = True) -> Images:
    """Return a (B, H, W, 3) batch of any size that the fragile file runs on, or fails on."""
    random = np.random.default_rng(seed)
    shape = (int(random.integers(1, 3)), *(int(side) for side in random.integers(1, 70, 2)), 3)
    images = random.integers(0, 256, shape, np.uint8)
    images[0, 0, 0, 0] = FRAGILE if good else FRAGILE + 5
    return images


def expected(images: Images) -> NDArray[np.uint8]:
    bright: NDArray[np.uint8] = (images.sum(axis=3, dtype=np.int32) > 384).astype(np.uint8)
    return bright


def test_a_failure_leaves_nothing_in_the_results_before_and_after_it(
    load: Load, write_fragile: WriteOnnx, tmp_path: Path
) -> None:
    predictor = load(write_fragile(tmp_path / "fragile.onnx"))
    kept = []
    for seed in range(12):
        images = fragile(seed)
        kept.append((images, predictor.run(images)))
        if seed % 3:
            with pytest.raises(BundleError, match="failed on images of shape"):
                predictor.run(fragile(100 + seed, good=False))
    for images, masks in kept:
        assert np.array_equal(masks, expected(images))


def test_what_has_failed_is_made_anew_and_what_has_not_is_kept(
    load: Load, write_fragile: WriteOnnx, tmp_path: Path
) -> None:
    predictor: Any = load(write_fragile(tmp_path / "fragile.onnx"))

    def made() -> Any:
        with predictor.session.use() as value:
            return value

    before = made()
    predictor.run(fragile(1))
    assert made() is before
    with suppress(BundleError):
        predictor.run(fragile(2, good=False))
    assert made() is not before


def test_a_small_image_that_the_runtime_refuses_while_it_runs_spoils_no_other(
    load: Load, write_patches: WriteOnnx, tmp_path: Path
) -> None:
    predictor: Any = load(write_patches(tmp_path / "patches.onnx", resize="none"))
    predictor._limits = Limits()  # so that the runtime meets it
    random = np.random.default_rng(0)
    for size in ((4, 4), (64, 5), (3, 64)):
        images = random.integers(0, 256, (1, 64, 64, 3), np.uint8)
        bright = images[..., 0].reshape(1, 8, 8, 8, 8).mean(axis=(2, 4)) > 127
        for _ in range(2):
            assert np.array_equal(predictor.run(images), bright.repeat(8, 1).repeat(8, 2))
            with pytest.raises((BundleError, InvalidImageError), match=r"failed on images of shape|refuses"):
                predictor.run(np.zeros((1, *size, 3), np.uint8))


def test_8_threads_get_their_own_masks_while_others_fail(
    load: Load, write_fragile: WriteOnnx, tmp_path: Path
) -> None:
    predictor = load(write_fragile(tmp_path / "fragile.onnx"))
    jobs = [(fragile(seed, good=seed % 9 > 0), seed % 9 > 0) for seed in range(150)]

    def run(job: tuple[Images, bool]) -> NDArray[Any] | BundleError:
        try:
            return predictor.run(job[0])
        except BundleError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(run, jobs))
    for (images, good), result in zip(jobs, results, strict=True):
        if good:
            assert np.array_equal(result, expected(images))
        else:
            assert "failed on images of shape" in str(result)


@pytest.mark.parametrize("output", ["mask", "logits", "mask+confidence"])
def test_results_are_the_callers(load: Load, write_linear: WriteOnnx, tmp_path: Path, output: str) -> None:
    predictor = load(write_linear(tmp_path / "model.onnx", output))
    first = np.random.default_rng(1).integers(0, 256, (2, 24, 40, 3), np.uint8)
    given = first.copy()

    def results(images: Images) -> list[NDArray[Any]]:
        found = [*predictor.infer(images, predictor.available).values(), predictor.run(images)]
        found += [*predictor.outputs(images).values(), predictor.predict(images[0])]
        return [array for array in found if array is not None]

    arrays = results(first)
    before = [array.copy() for array in arrays]
    results(255 - first)
    results(first[:1, :9])
    for array, copy in zip(arrays, before, strict=True):
        assert np.array_equal(array, copy)
        assert not np.shares_memory(array, first)
        array[...] = 0  # may be written to
    assert np.array_equal(first, given)
    for array, copy in zip(results(first), before, strict=True):
        assert np.array_equal(array, copy)


def test_results_of_pytorch_are_the_callers(tiny_bundle: Path) -> None:
    predictor = load_predictor(tiny_bundle)
    first = np.random.default_rng(1).integers(0, 256, (2, 40, 64, 3), np.uint8)
    given = first.copy()

    def results(images: Images) -> list[Any]:
        found = predictor.run(images), *predictor.infer(images, predictor.available).values()
        return [*found, predictor.predict(images[0])]

    arrays = results(first)
    before = [array.copy() for array in arrays]
    results(255 - first)
    for array, copy in zip(arrays, before, strict=True):
        assert np.array_equal(array, copy)
        array[...] = 0
    assert np.array_equal(first, given)
    for array, copy in zip(results(first), before, strict=True):
        assert np.array_equal(array, copy)


def test_a_file_that_was_replaced_is_not_run_in_the_place_of_the_one_that_was_loaded(
    load: Load, write_fragile: WriteOnnx, write_onnx: WriteOnnx, tmp_path: Path
) -> None:
    path = write_fragile(tmp_path / "fragile.onnx")
    predictor = load(path)
    write_onnx(tmp_path / "other.onnx").replace(path)
    assert np.array_equal(predictor.run(fragile(0)), expected(fragile(0)))
    for _ in range(2):
        with pytest.raises(BundleError):
            predictor.run(fragile(1, good=False))
    for _ in range(2):
        with pytest.raises(BundleError, match=r"fragile\.onnx was replaced since it was loaded.*load the"):
            predictor.run(fragile(0))
    path.unlink()
    with pytest.raises(BundleError, match=r"fragile\.onnx is gone since it was loaded"):
        predictor.run(fragile(0))


def test_a_session_that_others_use_is_made_anew_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("a")
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    session = Session(path, make, alone=False)
    inside, failed = threading.Barrier(3), threading.Barrier(3)

    def use() -> None:
        with session.use():
            inside.wait(10)
            failed.wait(10)
            raise ValueError

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(use) for _ in range(2)]
        inside.wait(10)
        failed.wait(10)
        assert all(isinstance(future.exception(10), ValueError) for future in futures)
    with session.use() as value:
        assert value is made[1]
    assert len(made) == 2


@pytest.mark.parametrize("alone", [True, False])
def test_whether_threads_take_turns_is_the_sessions_choice(tmp_path: Path, alone: bool) -> None:
    path = tmp_path / "file"
    path.write_text("a")
    session = Session(path, object, alone=alone)
    entered = threading.Event()

    def use() -> None:
        with session.use():
            entered.set()

    with ThreadPoolExecutor(1) as pool:
        with session.use():
            future = pool.submit(use)
            assert entered.wait(0.2 if alone else 10) is not alone
        future.result(10)
    assert entered.is_set()
