from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import pytest
import torch
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from zoo.bundle.manifest import sha256
from zoo.errors import ExportError
from zoo.export.to_tensorrt import (
    DEFAULT_SM,
    Target,
    build_engine,
    build_targets,
    engine_name,
    load_builder,
    make_profile,
    plan_engine,
)
from zoo.predictors.artifact import Profile
from zoo.predictors.runtimes import trt_api
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.predictors.runtimes.trt_api import TensorRt, installed_flavors, load_tensorrt

if TYPE_CHECKING:
    from pathlib import Path

needs_rtx = pytest.mark.skipif("rtx" not in installed_flavors(), reason="tensorrt_rtx is not here")
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
needs_no_trt = pytest.mark.skipif("trt" in installed_flavors(), reason="tensorrt is here")

PROFILE = make_profile((64, 96), (1, 2, 4))


@pytest.fixture
def rtx() -> TensorRt:
    return load_tensorrt("rtx")


def test_a_profile_reaches_from_small_images_to_imgsz() -> None:
    assert Profile(min=(1, 32, 32), opt=(2, 64, 96), max=(4, 64, 96)) == PROFILE


@needs_rtx
@pytest.mark.parametrize("sm", [(86, 89, 120), (75,)])
def test_an_engine_is_built_without_a_gpu(
    rtx: TensorRt, write_onnx: Any, tmp_path: Path, sm: tuple[int, ...]
) -> None:
    path = write_onnx(tmp_path / "model.onnx")
    metadata = OrtPredictor(path).metadata
    plan, info = build_engine(rtx, path, plan_engine(rtx, path, metadata, Target(sm=sm), PROFILE))
    assert len(plan) == info.bytes > 1000
    assert info.onnx_sha256 == sha256(path)
    assert (info.flavor, info.version, info.sm, info.gpu) == ("rtx", rtx.version, sm, "")
    assert info.profile == PROFILE
    assert info.metadata == metadata
    assert engine_name(info) == f"model.fp32.rtx{rtx.version}.sm{'-'.join(map(str, sm))}.engine"


@needs_rtx
def test_the_gpus_are_recent_ones_unless_named(rtx: TensorRt) -> None:
    assert build_targets(rtx, ()) == (Target(sm=DEFAULT_SM),)
    assert build_targets(rtx, (120, 89, 89)) == (Target(sm=(89, 120)),)


@needs_rtx
def test_turing_gets_an_engine_of_its_own(rtx: TensorRt) -> None:
    assert build_targets(rtx, (86, 75, 89)) == (Target(sm=(75,)), Target(sm=(86, 89)))


@needs_rtx
@pytest.mark.parametrize("sm", [90, 100, 70])
def test_an_unknown_capability_is_refused_with_those_there_are(rtx: TensorRt, sm: int) -> None:
    with pytest.raises(
        ExportError, match=rf"--sm {sm} is not supported .* 75, 80, 86, 89, 120.*semiseg-zoo\[trt\]"
    ):
        build_targets(rtx, (86, sm))


@needs_rtx
def test_the_parsers_reason_is_part_of_the_error(rtx: TensorRt, write_onnx: Any, tmp_path: Path) -> None:
    graph = make_graph(
        [make_node("Transpose", ["image"], ["mask"], perm=[0, 3, 1, 2])],  # TensorRT can only cast uint8
        "transpose",
        [make_tensor_value_info("image", TensorProto.UINT8, ["b", "h", "w", 3])],
        [make_tensor_value_info("mask", TensorProto.UINT8, ["b", 3, "h", "w"])],
    )
    path = tmp_path / "model.onnx"
    onnx.save(make_model(graph, opset_imports=[make_opsetid("", 18)], ir_version=10), path)
    metadata = OrtPredictor(write_onnx(tmp_path / "other.onnx")).metadata
    with pytest.raises(ExportError, match=r"TensorRT-RTX .* refused model\.onnx \(.*UInt8.*\): "):
        build_engine(rtx, path, plan_engine(rtx, path, metadata, Target(sm=(86,)), PROFILE))


@needs_rtx
def test_the_reasons_of_one_build_are_not_those_of_the_next(
    rtx: TensorRt, write_onnx: Any, tmp_path: Path
) -> None:
    path = write_onnx(tmp_path / "model.onnx")
    metadata = OrtPredictor(path).metadata
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(ExportError, match=r"refused broken\.onnx"):
        build_engine(
            rtx,
            tmp_path / "broken.onnx",
            plan_engine(rtx, tmp_path / "broken.onnx", metadata, Target(sm=(86,)), PROFILE),
        )
    build_engine(rtx, path, plan_engine(rtx, path, metadata, Target(sm=(86,)), PROFILE))
    assert rtx.drain() == "no reason given"


@needs_no_trt
@needs_rtx
def test_rtx_is_taken_where_it_is_alone() -> None:
    assert load_builder(()).flavor == "rtx"
    assert load_builder((86,)).flavor == "rtx"


def test_capabilities_without_rtx_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_api, "MODULES", {"trt": "json", "rtx": "no_such_tensorrt_rtx"})
    with pytest.raises(ExportError, match=r"--sm needs TensorRT-RTX: .*\[rtx\].*without --sm"):
        load_builder((86,))


@needs_no_gpu
def test_tensorrt_without_a_gpu_is_an_error() -> None:
    class Version:
        __version__ = "11.4.0.106"

    with pytest.raises(ExportError, match=r"TensorRT 11\.4\.0 builds on the GPU that will run the engine"):
        build_targets(TensorRt("trt", Version, None), ())


def test_the_name_of_a_gpu_becomes_part_of_the_engines() -> None:
    assert Target(gpu="NVIDIA GeForce RTX 4090").label == "NVIDIA-GeForce-RTX-4090"
