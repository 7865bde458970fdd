"""Binding to memory is the same on a CPU; streams and graphs need a GPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from onnx.helper import make_graph, make_node, make_tensor, make_tensor_value_info

from tests.conftest import FRAGILE
from zoo.errors import BundleError, InvalidImageError
from zoo.predictors.base import Prediction
from zoo.predictors.bound import KEPT_SHAPES
from zoo.predictors.load import load_predictor
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.predictors.runtimes.ort_cuda import MAX_GRAPHS, OrtCudaPredictor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    WriteLinear = Callable[..., Path]

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")

SHAPES = [(1, 16, 24), (2, 33, 47), (1, 24, 16), (3, 8, 8), (1, 40, 40), (2, 16, 24)]


def images_of(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), np.uint8)


def with_branch(path: Path) -> Path:
    """Put an `If` before the last node of an ONNX file: what is decided on the host cannot be captured."""
    model = onnx.load(path)
    *nodes, cast = model.graph.node
    same = make_tensor_value_info("same", onnx.TensorProto.INT64, ["b", "h", "w"])
    branch = make_graph([make_node("Identity", ["label"], ["same"])], "branch", [], [same])
    model.graph.initializer.append(make_tensor("yes", onnx.TensorProto.BOOL, [], [True]))
    model.graph.input.append(
        make_tensor_value_info("yes", onnx.TensorProto.BOOL, [])
    )  # so that none folds it
    choice = make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch)
    cast.input[0] = "chosen"
    del model.graph.node[:]
    model.graph.node.extend([*nodes, choice, cast])
    onnx.save(model, path)
    return path


def test_a_branch_in_a_file_is_run(write_linear: WriteLinear, tmp_path: Path) -> None:
    images = images_of((1, 16, 24))
    plain = OrtPredictor(write_linear(tmp_path / "model.onnx", "mask")).run(images)
    path = with_branch(tmp_path / "model.onnx")
    assert np.array_equal(OrtCudaPredictor(path, "cpu").run(images), plain)


def test_the_three_stages_are_a_run(write_linear: WriteLinear, tmp_path: Path) -> None:
    path = write_linear(tmp_path / "model.onnx")
    predictor, reference = OrtCudaPredictor(path, "cpu"), OrtPredictor(path)
    for shape in SHAPES:
        images = images_of(shape)
        expected = reference.run(images)
        masks = predictor.compute(predictor.upload(images))
        assert isinstance(masks, torch.Tensor)
        assert np.array_equal(predictor.download(masks), expected)
        assert np.array_equal(predictor.run(images), expected)


def test_a_shape_keeps_its_memory(write_linear: WriteLinear, tmp_path: Path) -> None:
    predictor = OrtCudaPredictor(write_linear(tmp_path / "model.onnx"), "cpu")

    def addresses() -> list[int]:
        with predictor.session.use() as opened:
            buffers = opened.shapes[1, 16, 24].buffers
        return [tensor.data_ptr() for tensor in (buffers.image, *buffers.outputs.values())]

    predictor.run(images_of((1, 16, 24)))
    before = addresses()
    predictor.run(images_of((2, 33, 47)))
    predictor.run(images_of((1, 16, 24)))
    assert addresses() == before


def test_masks_of_two_batches_under_way_are_not_mixed_up(write_linear: WriteLinear, tmp_path: Path) -> None:
    path = write_linear(tmp_path / "model.onnx")
    predictor, reference = OrtCudaPredictor(path, "cpu"), OrtPredictor(path)
    first, second = images_of((2, 33, 47)), 255 - images_of((2, 33, 47))
    masks = [predictor.compute(predictor.upload(images)) for images in (first, second)]
    assert np.array_equal(predictor.download(masks[0]), reference.run(first))
    assert np.array_equal(predictor.download(masks[1]), reference.run(second))


def test_the_shapes_that_were_used_last_are_kept(write_linear: WriteLinear, tmp_path: Path) -> None:
    predictor = OrtCudaPredictor(write_linear(tmp_path / "model.onnx"), "cpu")
    for shape in SHAPES[:KEPT_SHAPES]:
        predictor.run(images_of(shape))
    predictor.run(images_of(SHAPES[0]))
    predictor.run(images_of(SHAPES[KEPT_SHAPES]))
    with predictor.session.use() as opened:
        assert list(opened.shapes) == [*SHAPES[2:KEPT_SHAPES], SHAPES[0], SHAPES[KEPT_SHAPES]]


def test_a_shape_that_the_file_does_not_take_is_an_error(write_linear: WriteLinear, tmp_path: Path) -> None:
    predictor = OrtCudaPredictor(write_linear(tmp_path / "model.onnx", height=16), "cpu")
    with pytest.raises(InvalidImageError, match=r"got an image of 24 x 16, expected 16 x 1\.\.any: crop or"):
        predictor.run(images_of((1, 24, 16)))
    assert predictor.run(images_of((1, 16, 24))).shape == (1, 16, 24)


@needs_no_gpu
def test_cuda_that_cannot_be_had_is_an_error_and_not_the_cpu(
    write_linear: WriteLinear, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_linear(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match=r"cannot use the GPU and fell back to CPU.*semiseg-zoo\[gpu\]"):
        load_predictor(path, device="cuda")
    assert capfd.readouterr() == ("", "")


def test_an_unknown_device_is_refused(write_linear: WriteLinear, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="got device 'tpu', expected one of cpu, cuda"):
        load_predictor(write_linear(tmp_path / "model.onnx"), device="tpu")


@pytest.mark.gpu
@pytest.mark.parametrize("output", ["mask", "logits", "mask+confidence"])
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_cuda_gives_the_masks_of_the_cpu(
    write_linear: WriteLinear, tmp_path: Path, output: str, cuda_graph: bool
) -> None:
    path = write_linear(tmp_path / "model.onnx", output)
    on_gpu, reference = OrtCudaPredictor(path, cuda_graph=cuda_graph), OrtPredictor(path)
    assert "CUDAExecutionProvider" in on_gpu.description
    assert ("CUDA graphs" in on_gpu.description) is cuda_graph
    for _ in range(3):
        for shape in SHAPES:
            images = images_of(shape)
            assert (on_gpu.run(images) == reference.run(images)).mean() > 0.999
            got, expected = (
                Prediction(on_gpu.infer(images, on_gpu.available)),
                Prediction(reference.infer(images, reference.available)),
            )
            if expected.confidence is not None:
                assert np.abs(got.confidence.astype(int) - expected.confidence).max() <= 1


@pytest.mark.gpu
def test_more_shapes_than_graphs_are_run_without(write_linear: WriteLinear, tmp_path: Path) -> None:
    path = write_linear(tmp_path / "model.onnx")
    on_gpu, reference = OrtCudaPredictor(path), OrtPredictor(path)
    for width in range(8, 8 + 2 * MAX_GRAPHS):
        images = images_of((1, 16, width))
        for _ in range(3):  # launched, captured, replayed
            assert (on_gpu.run(images) == reference.run(images)).mean() > 0.999
    with on_gpu.session.use() as opened:
        assert not list(opened.runtime.graphs)


@pytest.mark.gpu
def test_cuda_works_beside_other_work_on_the_current_stream(
    write_linear: WriteLinear, tmp_path: Path
) -> None:
    path = write_linear(tmp_path / "model.onnx")
    on_gpu, reference = OrtCudaPredictor(path), OrtPredictor(path)
    images = images_of((1, 512, 512))
    on_gpu.run(images)
    batch = on_gpu.upload(images)
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)
        late = 255 - batch  # only written after the sleep
        masks = on_gpu.compute(late)
        got = on_gpu.download(masks)
    assert (got == reference.run(255 - images)).mean() > 0.999


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_threads_on_streams_of_their_own_share_a_gpu(
    write_linear: WriteLinear, tmp_path: Path, cuda_graph: bool
) -> None:
    path = write_linear(tmp_path / "model.onnx", "mask")
    on_gpu, reference = OrtCudaPredictor(path, cuda_graph=cuda_graph), OrtPredictor(path)
    random = np.random.default_rng(0)
    batches = [random.integers(0, 256, (*SHAPES[index % 3], 3), np.uint8) for index in range(120)]

    def run(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        with torch.cuda.stream(torch.cuda.Stream()):
            return on_gpu.run(images)

    with ThreadPoolExecutor(8) as pool:
        for images, masks in zip(batches, pool.map(run, batches), strict=True):
            assert (masks == reference.run(images)).mean() > 0.999


@pytest.mark.gpu
def test_a_failure_on_a_gpu_leaves_nothing_behind(write_fragile: WriteLinear, tmp_path: Path) -> None:
    path = write_fragile(tmp_path / "fragile.onnx")
    on_gpu = OrtCudaPredictor(path)
    for seed in range(6):
        images = np.random.default_rng(seed).integers(0, 256, (1, 16, 24, 3), np.uint8)
        images[0, 0, 0, 0] = FRAGILE
        assert np.array_equal(on_gpu.run(images), images.sum(axis=3, dtype=np.int32) > 384)
        images[0, 0, 0, 0] = FRAGILE + 5
        with pytest.raises(BundleError, match="failed on images of shape"):
            on_gpu.run(images)


@pytest.mark.gpu
def test_a_model_that_cannot_be_captured_is_run_without_graphs(
    write_linear: WriteLinear, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = with_branch(write_linear(tmp_path / "model.onnx", "mask"))
    predictor, images = OrtCudaPredictor(path), images_of((1, 16, 24))
    assert (predictor.run(images) == OrtPredictor(path).run(images)).mean() > 0.999
    assert not predictor.cuda_graph
    assert "running without CUDA graphs: " in caplog.text
