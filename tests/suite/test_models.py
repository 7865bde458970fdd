from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from zoo.export.to_tensorrt import make_profile
from zoo.models.deployable import build_deployable
from zoo.predictors.artifact import read_engine_info
from zoo.predictors.load import load_predictor
from zoo.predictors.ort import OrtPredictor
from zoo.predictors.trt_api import installed_flavors
from zoo.suite.models import (
    NUM_CLASSES,
    balance,
    config_of,
    sample_images,
    settle,
    write_engine,
    write_model,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.models.segmentation import SegmentationNetwork


@pytest.mark.parametrize("model", ["deeplabv3plus-tiny", "deeplabv2-tiny"])
@torch.no_grad()
def test_a_model_with_random_weights_predicts_every_class(model: str) -> None:
    torch.manual_seed(0)
    student: Any = build_deployable(config_of(model))
    network: SegmentationNetwork = student.network
    images = sample_images()
    settle(student, images)
    balance(network, images)
    logits = network(images).logits
    assert torch.allclose(logits.mean(dim=(0, 2, 3)), torch.zeros(NUM_CLASSES), atol=1e-4)
    assert torch.allclose(logits.std(dim=(0, 2, 3)), torch.ones(NUM_CLASSES), atol=1e-4)
    assert len(logits.argmax(dim=1).unique()) == NUM_CLASSES


@torch.no_grad()
def test_batch_norm_gets_the_statistics_of_images_and_keeps_its_momentum() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.3))
    images = torch.randn(8, 3, 16, 16) * 3 + 1
    settle(model, images)
    norm: Any = model[1]
    assert not model.training
    assert norm.momentum == 0.3
    assert torch.allclose(norm.running_mean, model[0](images).mean(dim=(0, 2, 3)), atol=1e-5)


def test_a_bundle_of_a_gate_is_written_and_runs(tmp_path: Path) -> None:
    bundle, _ = write_model("gated-tiny", (64, 64), tmp_path / "gated")
    predictor: Any = load_predictor(bundle)
    assert predictor.preprocessing.imgsz == (64, 64)
    images = (255 * torch.rand(1, 64, 64, 3)).byte().numpy()
    assert predictor.run(images).shape == (1, 64, 64)


@pytest.mark.skipif("rtx" not in installed_flavors()[:1], reason="builds without a GPU by TensorRT-RTX alone")
def test_an_engine_lies_where_the_benchmark_looks_for_it(
    tmp_path: Path, write_onnx: Callable[..., Path]
) -> None:
    metadata = OrtPredictor(write_onnx(tmp_path / "model.onnx")).metadata
    write_engine(tmp_path, metadata, make_profile((64, 64), (1, 1, 4)), 89)
    [engine] = (tmp_path / "engines").glob("*.engine")
    info = read_engine_info(engine)
    assert info.sm == (89,)
    assert (info.profile.min[0], info.profile.max) == (1, (4, 64, 64))
