from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from zoo.errors import BundleError
from zoo.predictors.artifact import sha256
from zoo.predictors.eager import CompiledPredictor, EagerPredictor
from zoo.predictors.load import load_predictor
from zoo.predictors.ort import OrtPredictor

if TYPE_CHECKING:
    from pathlib import Path

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


def test_a_bundle_is_run_eagerly_unless_compiled(tiny_bundle: Path) -> None:
    assert type(load_predictor(tiny_bundle)) is EagerPredictor
    assert type(load_predictor(tiny_bundle, backend="compile")) is CompiledPredictor


def test_an_onnx_file_is_run_by_onnx_runtime(write_onnx: Any, tmp_path: Path) -> None:
    predictor = load_predictor(write_onnx(tmp_path / "model.onnx"), threads=1)
    assert isinstance(predictor, OrtPredictor)
    assert predictor.run(np.full((1, 4, 5, 3), 255, np.uint8)).tolist() == [[[1] * 5] * 4]


def test_the_onnx_file_of_a_bundle_must_have_its_weights(write_onnx: Any, bundle_copy: Path) -> None:
    path = write_onnx(bundle_copy / "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx was made from other weights than .*zoo export"):
        load_predictor(bundle_copy, backend="ort")
    known = json.loads(OrtPredictor(path).metadata.model_dump_json())
    known["weights_sha256"] = sha256(bundle_copy / "model.safetensors")
    write_onnx(path, metadata=json.dumps(known))
    assert isinstance(load_predictor(bundle_copy, backend="ort"), OrtPredictor)


def test_a_bundle_that_was_not_exported_says_how(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx does not exist.*zoo export --onnx"):
        load_predictor(tiny_bundle, backend="ort")
    with pytest.raises(BundleError, match="holds no engine: build one with zoo export --trt"):
        load_predictor(tiny_bundle, backend="trt")


@pytest.mark.parametrize(
    ("name", "backend", "message"),
    [
        ("model.onnx", "trt", "backend trt cannot run .*, expected ort"),
        ("model.engine", "eager", "backend eager cannot run .*, expected trt"),
        ("model.pt", None, "is no model, expected a bundle folder or a file of .onnx, .engine"),
        (".", "openvino", "backend openvino cannot run .*, expected eager or compile or ort or trt"),
        (".", None, "holds no config.json"),
        (".", "ort", "holds no config.json"),
    ],
)
def test_what_cannot_be_run_is_said(tmp_path: Path, name: str, backend: str | None, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        load_predictor(tmp_path / name, backend=backend)


@needs_no_gpu
@pytest.mark.parametrize("backend", ["eager", "compile"])
def test_a_gpu_that_is_not_there_is_an_error(tiny_bundle: Path, backend: str) -> None:
    with pytest.raises(BundleError, match="device cuda cannot be used: PyTorch finds no NVIDIA GPU"):
        load_predictor(tiny_bundle, backend=backend, device="cuda")
