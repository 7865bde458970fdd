"""Models that are copied, pickled, or used in a process that was forked or spawned."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from zoo.api.model import Model
from zoo.errors import BundleError
from zoo.predictors.load import load_predictor
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.predictors.runtimes.ort_cuda import OrtCudaPredictor

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from zoo.predictors.base import Predictor

    WriteOnnx = Callable[..., Path]

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)

REFUSED = b"OpenVINO cannot be used in a process that was forked"

PATIENCE_S = 30
"""That a child gets: one that hangs would take for ever."""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.fixture(params=["eager", "ort", "openvino", "ort, 2 threads", "openvino, 2 threads"])
def predictor(
    request: pytest.FixtureRequest, tiny_bundle: Path, write_linear: Any, tmp_path: Path
) -> Predictor:
    backend, _, threads = request.param.partition(", ")
    if backend == "openvino":
        pytest.importorskip("openvino")
    path = tiny_bundle if backend == "eager" else write_linear(tmp_path / "model.onnx", "mask")
    return load_predictor(path, backend=backend, threads=2 if threads else 1)


def masks(predictor: Predictor) -> NDArray[Any]:
    return np.stack([predictor.predict(image) for image in IMAGES])


@pytest.mark.parametrize("how", [lambda it: pickle.loads(pickle.dumps(it)), copy.deepcopy])
def test_a_copy_is_loaded_from_the_same_path_with_the_same_options(
    predictor: Predictor, how: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = how(Model(predictor)).predictor
    assert type(twin) is type(predictor)
    assert twin is not predictor
    assert twin.description == predictor.description
    assert np.array_equal(masks(twin), masks(predictor))
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(masks(how(twin)), masks(predictor))


def test_a_shallow_copy_shares_what_runs(write_onnx: WriteOnnx, tmp_path: Path) -> None:
    model = Model(load_predictor(write_onnx(tmp_path / "model.onnx")))
    assert copy.copy(model).predictor is model.predictor


def test_a_pickle_of_a_relative_path_is_read_from_another_folder(
    write_onnx: WriteOnnx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_onnx(tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    text = pickle.dumps(load_predictor(Path("model.onnx"), backend="ort", precision="fp32", threads=3))
    monkeypatch.chdir("/")
    assert masks(pickle.loads(text)).shape == IMAGES.shape[:3]


def test_a_pickle_of_a_model_that_is_gone_says_so(write_onnx: WriteOnnx, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx")
    text = pickle.dumps(load_predictor(path))
    path.unlink()
    with pytest.raises(BundleError, match=r"model\.onnx does not exist"):
        pickle.loads(text)


@pytest.mark.parametrize("how", [pickle.dumps, copy.deepcopy])
def test_what_was_not_loaded_from_a_path_cannot_be_copied(
    write_onnx: WriteOnnx, tmp_path: Path, how: Callable[[Any], Any]
) -> None:
    predictor = OrtPredictor(write_onnx(tmp_path / "model.onnx"))
    with pytest.raises(BundleError, match=r"this ort model was not loaded from a path .*: load it with zoo"):
        how(predictor)


def in_child(work: Callable[[], bytes]) -> bytes:
    """Return what a function returns in a process that is forked from this one, or the error it raises."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(PATIENCE_S)  # kills this process even while it waits outside Python
        try:
            answer = work()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}".encode()
        os.write(writer, answer)
        os._exit(0)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as file:
            return file.read()
    finally:
        os.waitpid(child, 0)


@forks
def test_a_forked_process_uses_the_model_of_its_parent_or_refuses_it(predictor: Predictor) -> None:
    if predictor.backend == "openvino":
        assert REFUSED in in_child(lambda: masks(predictor).tobytes())
        return
    torch.set_num_threads(2)
    before = masks(predictor)
    assert in_child(lambda: in_child(lambda: masks(predictor).tobytes())) == before.tobytes()
    assert in_child(lambda: masks(predictor).tobytes()) == before.tobytes()
    assert np.array_equal(masks(predictor), before)


@forks
def test_a_process_that_is_forked_while_another_thread_predicts_does_not_wait_for_it(
    write_linear: WriteOnnx, tmp_path: Path
) -> None:
    predictor = OrtCudaPredictor(write_linear(tmp_path / "model.onnx", "mask"), "cpu")
    before = masks(predictor)
    entered, left = threading.Event(), threading.Event()

    def occupy() -> None:
        with predictor.session.use():
            entered.set()
            left.wait(PATIENCE_S)

    thread = threading.Thread(target=occupy)
    thread.start()
    try:
        assert entered.wait(10)
        assert in_child(lambda: masks(predictor).tobytes()) == before.tobytes()
    finally:
        left.set()
        thread.join()


@forks
def test_a_pool_of_forked_processes_predicts_or_refuses(predictor: Predictor) -> None:
    torch.set_num_threads(2)
    before = masks(predictor)
    with multiprocessing.get_context("fork").Pool(2, _keep, (predictor,)) as pool:
        if predictor.backend == "openvino":
            with pytest.raises(BundleError, match=REFUSED.decode()):
                pool.map_async(_predict, range(len(IMAGES))).get(PATIENCE_S)
            return
        found = pool.map_async(_predict, range(len(IMAGES))).get(PATIENCE_S)
    assert np.array_equal(np.stack(found), before)


KEPT: list[Predictor] = []


def _keep(predictor: Predictor) -> None:
    KEPT[:] = [predictor]


def _predict(index: int) -> NDArray[Any]:
    return KEPT[0].predict(IMAGES[index])


@forks
def test_the_file_of_a_model_that_is_gone_is_said_in_a_forked_process(
    write_linear: WriteOnnx, tmp_path: Path
) -> None:
    path = write_linear(tmp_path / "model.onnx", "mask")
    predictor = load_predictor(path, threads=1)
    path.unlink()
    assert in_child(lambda: masks(predictor).tobytes()).startswith(b"BundleError: ")
    assert masks(predictor).shape == IMAGES.shape[:3]


@forks
def test_a_compiled_model_is_refused_in_a_forked_process(tiny_bundle: Path) -> None:
    predictor = load_predictor(tiny_bundle, backend="compile")
    answer = in_child(lambda: masks(predictor).tobytes())
    assert answer.startswith(b"BundleError: a compiled model cannot be used in a process that was forked")
