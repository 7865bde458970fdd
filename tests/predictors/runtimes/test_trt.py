from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from zoo.bundle.bundle import write_json
from zoo.errors import BundleError, ExportError
from zoo.export.to_tensorrt import build_engine, build_targets, load_builder, make_profile, plan_engine
from zoo.predictors.artifact import EngineInfo, info_path
from zoo.predictors.base import Prediction
from zoo.predictors.runtimes import trt_api
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.predictors.runtimes.trt import TrtPredictor, check_engine, check_shape, deserialize, load_trt
from zoo.predictors.runtimes.trt_api import installed_flavors, load_tensorrt

if TYPE_CHECKING:
    from pathlib import Path

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
needs_tensorrt = pytest.mark.skipif(
    not installed_flavors(), reason="neither tensorrt nor tensorrt_rtx is here"
)
needs_rtx = pytest.mark.skipif("rtx" not in installed_flavors(), reason="tensorrt_rtx is not here")


@pytest.fixture
def info(write_onnx: Any, tmp_path: Path) -> EngineInfo:
    metadata = OrtPredictor(write_onnx(tmp_path / "model.onnx")).metadata
    return EngineInfo(
        metadata=metadata,
        onnx_sha256="0" * 64,
        flavor="rtx",
        version="1.7.1",
        sm=(86, 89),
        profile=make_profile((64, 96), (1, 2, 4)),
        build_seconds=1,
        bytes=3,
    )


def write_engine(path: Path, info: EngineInfo, plan: bytes = b"abc") -> Path:
    path.write_bytes(plan)
    write_json(info_path(path), info.model_dump(mode="json"))
    return path


@pytest.mark.parametrize("shape", [(1, 32, 32), (4, 64, 96), (2, 33, 95)])
def test_shapes_inside_the_profile_are_taken(
    info: EngineInfo, tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    check_shape(shape, info, tmp_path)


@pytest.mark.parametrize("shape", [(5, 64, 64), (1, 65, 64), (1, 64, 31)])
def test_shapes_outside_the_profile_are_refused_with_its_limits(
    info: EngineInfo, tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    with pytest.raises(BundleError, match=r"from \(1, 32, 32\) to \(4, 64, 96\), got"):
        check_shape(shape, info, tmp_path)


def test_an_engine_without_its_json_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.engine").write_bytes(b"abc")
    with pytest.raises(BundleError, match=r"has no model\.engine\.json next to it"):
        load_trt(tmp_path / "model.engine")


def test_a_missing_engine_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.engine does not exist, expected a TensorRT engine"):
        load_trt(tmp_path / "model.engine")


@needs_no_gpu
def test_an_engine_without_a_gpu_says_so(info: EngineInfo, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot run on this machine: PyTorch finds no NVIDIA GPU"):
        load_trt(write_engine(tmp_path / "model.engine", info))


@needs_rtx
@pytest.mark.parametrize("num_classes", [3, 300])
@pytest.mark.parametrize("output", ["mask", "logits", "mask+confidence"])
def test_every_output_can_be_built(write_linear: Any, tmp_path: Path, output: str, num_classes: int) -> None:
    onnx, api = write_linear(tmp_path / "model.onnx", output, num_classes), load_builder((86,))
    (target,) = build_targets(api, (86, 120))
    profile = make_profile((64, 64), (1, 1, 2))
    planned = plan_engine(api, onnx, OrtPredictor(onnx).metadata, target, profile)
    plan, info = build_engine(api, onnx, planned)
    assert len(plan) == info.bytes > 1000


@needs_rtx
def test_an_engine_of_another_version_is_refused(info: EngineInfo, tmp_path: Path) -> None:
    path, api = write_engine(tmp_path / "model.engine", info), load_tensorrt("rtx")
    check_engine(path, info.model_copy(update={"version": api.version}), api)
    old = info.model_copy(update={"version": "1.2.3"})
    with pytest.raises(
        BundleError, match=rf"built with TensorRT-RTX 1\.2\.3, this is {api.version}: build it here"
    ):
        check_engine(path, old, api)


@needs_rtx
def test_an_engine_that_was_cut_off_is_refused(info: EngineInfo, tmp_path: Path) -> None:
    path = write_engine(tmp_path / "model.engine", info, b"ab")
    with pytest.raises(BundleError, match=r"has 2 bytes, expected the 3 of the engine .*: copy it again"):
        check_engine(path, info, load_tensorrt("rtx"))


@needs_rtx
def test_an_engine_that_tensorrt_refuses_comes_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "model.engine").write_bytes(b"no engine" * 100)
    with pytest.raises(
        BundleError, match=r"TensorRT-RTX 1\..* cannot load .*built for another GPU or version"
    ):
        deserialize(load_tensorrt("rtx"), tmp_path / "model.engine")


@needs_rtx
@needs_no_gpu
def test_without_a_driver_the_reason_is_the_drivers(write_onnx: Any, tmp_path: Path) -> None:
    api = load_builder((86,))
    onnx = write_onnx(tmp_path / "model.onnx")
    (target,) = build_targets(api, (86,))
    plan, _ = build_engine(
        api,
        onnx,
        plan_engine(api, onnx, OrtPredictor(onnx).metadata, target, make_profile((64, 64), (1, 1, 2))),
    )
    (tmp_path / "model.engine").write_bytes(plan)
    with pytest.raises(BundleError, match="CUDA driver version is insufficient"):
        deserialize(api, tmp_path / "model.engine")


def test_without_any_tensorrt_both_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_api, "MODULES", {"trt": "no_such_tensorrt", "rtx": "no_such_tensorrt_rtx"})
    with pytest.raises(ExportError, match=r"'semiseg-zoo\[trt\]'.*'semiseg-zoo\[rtx\]'"):
        load_tensorrt()


def test_the_wrong_tensorrt_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_api, "MODULES", {"trt": "no_such_tensorrt", "rtx": "json"})
    with pytest.raises(ExportError, match=r"TensorRT is not installed, found TensorRT-RTX: .*\[trt\]"):
        load_tensorrt("trt")


@pytest.mark.gpu
@needs_tensorrt
def test_an_engine_gives_the_masks_of_its_onnx_file(write_onnx: Any, tmp_path: Path) -> None:
    onnx = write_onnx(tmp_path / "model.onnx")
    reference = OrtPredictor(onnx)
    api = load_builder(())
    major, minor = torch.cuda.get_device_capability()
    (target,) = build_targets(api, (major * 10 + minor,) if api.flavor == "rtx" else ())
    plan, info = build_engine(
        api, onnx, plan_engine(api, onnx, reference.metadata, target, make_profile((64, 96), (1, 1, 4)))
    )
    predictor = load_trt(write_engine(tmp_path / "model.engine", info, plan))
    random = np.random.default_rng(0)
    for shape in ((1, 64, 96), (4, 32, 57), (1, 64, 96)):
        images = random.integers(0, 256, (*shape, 3), np.uint8)
        np.testing.assert_array_equal(predictor.run(images), reference.run(images))
    with pytest.raises(BundleError, match="takes batch, height, width"):
        predictor.run(np.zeros((5, 64, 64, 3), np.uint8))


def build_linear(
    write_linear: Any, folder: Path, output: str, num_classes: int = 3
) -> tuple[Path, EngineInfo, OrtPredictor]:
    """Build an engine for this GPU; return it and what runs the ONNX file that it was built from."""
    onnx = write_linear(folder / "model.onnx", output, num_classes)
    reference = OrtPredictor(onnx)
    api = load_builder(())
    major, minor = torch.cuda.get_device_capability()
    (target,) = build_targets(api, (major * 10 + minor,) if api.flavor == "rtx" else ())
    profile = make_profile((64, 96), (1, 1, 4))
    plan, info = build_engine(api, onnx, plan_engine(api, onnx, reference.metadata, target, profile))
    return write_engine(folder / "model.engine", info, plan), info, reference


@pytest.mark.gpu
@needs_tensorrt
@pytest.mark.parametrize("output", ["mask", "logits", "mask+confidence"])
@pytest.mark.parametrize("cuda_graph", [True, False])
@pytest.mark.parametrize("num_classes", [3, 300])
def test_an_engine_gives_every_output_again_and_again(
    write_linear: Any, tmp_path: Path, output: str, cuda_graph: bool, num_classes: int
) -> None:
    path, info, reference = build_linear(write_linear, tmp_path, output, num_classes)
    predictor = TrtPredictor(path, info, cuda_graph=cuda_graph)
    random = np.random.default_rng(0)
    for _ in range(3):
        for shape in ((1, 64, 96), (4, 32, 57), (2, 40, 40), (1, 33, 32), (3, 64, 64)):
            images = random.integers(0, 256, (*shape, 3), np.uint8)
            got, expected = (
                Prediction(predictor.infer(images, predictor.available)),
                Prediction(reference.infer(images, reference.available)),
            )
            assert got.mask.dtype == expected.mask.dtype
            assert (got.mask == expected.mask).mean() > 0.99
            assert np.array_equal(predictor.run(images), got.mask)
            if expected.confidence is not None:
                assert got.confidence is not None
                assert np.abs(got.confidence.astype(int) - expected.confidence).max() <= 2
    assert predictor.cuda_graph is cuda_graph


@pytest.mark.gpu
@needs_tensorrt
def test_batches_under_way_are_not_mixed_up(write_linear: Any, tmp_path: Path) -> None:
    path, info, reference = build_linear(write_linear, tmp_path, "mask")
    predictor = TrtPredictor(path, info)
    first = np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3), np.uint8)
    masks = [predictor.compute(predictor.upload(images)) for images in (first, 255 - first)]
    assert (predictor.download(masks[0]) == reference.run(first)).mean() > 0.99
    assert (predictor.download(masks[1]) == reference.run(255 - first)).mean() > 0.99


@pytest.mark.gpu
@needs_tensorrt
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_threads_share_an_engine(write_linear: Any, tmp_path: Path, cuda_graph: bool) -> None:
    path, info, reference = build_linear(write_linear, tmp_path, "mask")
    predictor = TrtPredictor(path, info, cuda_graph=cuda_graph)
    random = np.random.default_rng(0)
    shapes = ((1, 64, 96), (4, 32, 57), (2, 40, 40), (1, 99, 99))  # the engine does not take the last
    batches = [random.integers(0, 256, (*shapes[index % 4], 3), np.uint8) for index in range(120)]

    def run(images: Any) -> Any:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                return predictor.run(images)
        except BundleError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        for images, masks in zip(batches, pool.map(run, batches), strict=True):
            if images.shape[1] == 99:
                assert "takes batch, height, width" in str(masks)
            else:
                assert (masks == reference.run(images)).mean() > 0.99


@pytest.mark.gpu
@needs_rtx
def test_compiled_kernels_are_kept_beside_the_engine_and_taken_again(
    write_linear: Any, tmp_path: Path
) -> None:
    if "trt" in installed_flavors():
        pytest.skip("engines are built with TensorRT, which compiles nothing when it runs")
    path, info, _ = build_linear(write_linear, tmp_path, "mask")
    images = np.zeros((1, 64, 96, 3), np.uint8)
    expected = TrtPredictor(path, info).run(images)
    (cache,) = tmp_path.glob(".*.cache")
    assert cache.stat().st_size > 100
    again = TrtPredictor(path, info)
    with again.session.use() as opened:
        assert opened.runtime.rtx is not None
        assert len(bytes(memoryview(opened.runtime.rtx.cache.serialize()))) > 100  # before anything ran
    assert np.array_equal(again.run(images), expected)
    cache.write_bytes(b"of another GPU")
    assert np.array_equal(TrtPredictor(path, info).run(images), expected)
