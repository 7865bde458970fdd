from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from zoo.bundle.bundle import write_json
from zoo.bundle.manifest import sha256
from zoo.errors import BundleError
from zoo.predictors.artifact import ONNX_NAMES, EngineInfo, Profile, info_path
from zoo.predictors.backends import newest_engine
from zoo.predictors.eager import (
    CompiledAmpPredictor,
    CompiledPredictor,
    EagerPredictor,
    has_bf16_instructions,
)
from zoo.predictors.load import load_predictor
from zoo.predictors.runtimes import trt, trt_api
from zoo.predictors.runtimes.openvino import OpenVinoPredictor
from zoo.predictors.runtimes.ort import OrtPredictor

if TYPE_CHECKING:
    from pathlib import Path

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


def test_a_bundle_is_run_eagerly_unless_compiled(tiny_bundle: Path) -> None:
    assert type(load_predictor(tiny_bundle)) is EagerPredictor
    assert type(load_predictor(tiny_bundle, backend="compile")) is CompiledPredictor
    if has_bf16_instructions():
        assert type(load_predictor(tiny_bundle, backend="compile-amp")) is CompiledAmpPredictor


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
    with pytest.raises(BundleError, match="has no engine: build one with zoo export --trt"):
        load_predictor(tiny_bundle, backend="trt")


@pytest.mark.parametrize(
    ("name", "backend", "message"),
    [
        ("model.onnx", "trt", "backend trt cannot run .*, expected ort or openvino"),
        ("model.engine", "eager", "backend eager cannot run .*, expected trt"),
        ("model.pt", None, "is not a model, expected a bundle folder or a file of .onnx, .engine"),
        (".", "tflite", "backend tflite cannot run .*, expected eager or .* or ort or openvino or trt"),
        (".", None, "has no config.json"),
        (".", "ort", "has no config.json"),
        (".", "openvino", "has no config.json"),
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


def write_for(bundle: Path, write_onnx: Any, name: str, precision: str) -> Path:
    """Write an ONNX file that says it was made from the weights of a bundle."""
    path: Path = write_onnx(bundle / name)
    known = json.loads(OrtPredictor(path).metadata.model_dump_json())
    known |= {"weights_sha256": sha256(bundle / "model.safetensors"), "precision": precision}
    write_onnx(path, metadata=json.dumps(known))
    return path


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_a_precision_names_a_file_of_the_bundle(write_onnx: Any, bundle_copy: Path, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    for precision in ("fp32", "fp16", "int8"):
        write_for(bundle_copy, write_onnx, ONNX_NAMES[precision], precision)
        predictor = load_predictor(bundle_copy, backend=backend, threads=1, precision=precision)
        assert predictor.metadata.precision == precision
    assert load_predictor(bundle_copy, backend=backend).path == bundle_copy / "model.onnx"
    with pytest.raises(BundleError, match=r"model\.bf16\.onnx does not exist"):
        load_predictor(bundle_copy, backend=backend, precision="bf16")


def test_a_file_of_another_precision_than_asked_for_is_refused(write_onnx: Any, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx")
    assert load_predictor(path, precision="fp32").metadata.precision == "fp32"
    with pytest.raises(BundleError, match=r"model\.onnx is in fp32, expected int8: choose another file"):
        load_predictor(path, precision="int8")


def test_a_precision_of_the_bundle_itself_is_refused(tiny_bundle: Path) -> None:
    assert type(load_predictor(tiny_bundle, precision="fp32")) is EagerPredictor
    with pytest.raises(BundleError, match="precision fp16 needs an exported file, expected backend ort"):
        load_predictor(tiny_bundle, precision="fp16")


def test_an_onnx_file_is_run_by_openvino_if_asked(write_onnx: Any, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = write_onnx(tmp_path / "model.onnx")
    assert isinstance(load_predictor(path, backend="openvino", threads=1), OpenVinoPredictor)
    with pytest.raises(BundleError, match="openvino runs on the CPU, got device cuda"):
        load_predictor(path, backend="openvino", device="cuda")


class TestEngines:
    """Which engine of a bundle is taken; that none can run here is left out of account."""

    @pytest.fixture(autouse=True)
    def _with_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trt, "why_not_here", lambda _: "")
        monkeypatch.setattr(trt_api, "installed_flavors", lambda: ("rtx",))

    def write_engine(self, bundle: Path, name: str, onnx: Path, age: int) -> Path:
        path = bundle / "engines" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"plan")
        info = EngineInfo(
            metadata=OrtPredictor(onnx).metadata,
            onnx_sha256=sha256(onnx),
            flavor="rtx",
            version="1.0.0",
            sm=(86,),
            profile=Profile(min=(1, 32, 32), opt=(1, 64, 64), max=(1, 64, 64)),
            build_seconds=1,
            bytes=4,
        )
        write_json(info_path(path), info.model_dump(mode="json"))
        os.utime(path, (1e9 - age, 1e9 - age))
        return path

    def test_the_newest_of_the_precision_asked_for_is_taken(self, write_onnx: Any, bundle_copy: Path) -> None:
        fp32 = write_for(bundle_copy, write_onnx, "model.onnx", "fp32")
        fp16 = write_for(bundle_copy, write_onnx, "model.fp16.onnx", "fp16")
        old = self.write_engine(bundle_copy, "a.engine", fp16, 3)
        new = self.write_engine(bundle_copy, "b.engine", fp16, 2)
        newest = self.write_engine(bundle_copy, "c.engine", fp32, 1)
        assert newest_engine(bundle_copy) == newest
        assert newest_engine(bundle_copy, "fp16") == new != old
        with pytest.raises(BundleError, match="has no engine in int8: build one with zoo export --trt"):
            newest_engine(bundle_copy, "int8")

    def test_an_engine_of_an_older_onnx_file_is_refused(self, write_onnx: Any, bundle_copy: Path) -> None:
        onnx = write_for(bundle_copy, write_onnx, "model.onnx", "fp32")
        engine = self.write_engine(bundle_copy, "a.engine", onnx, 1)
        assert newest_engine(bundle_copy) == engine
        onnx.write_bytes(onnx.read_bytes() + b" ")
        with pytest.raises(
            BundleError, match=r"a\.engine: it was built from other model\.onnx than the bundle"
        ):
            newest_engine(bundle_copy)

    def test_an_engine_of_other_weights_is_refused(self, write_onnx: Any, bundle_copy: Path) -> None:
        onnx = write_for(bundle_copy, write_onnx, "model.onnx", "fp32")
        self.write_engine(bundle_copy, "a.engine", onnx, 1)
        onnx.unlink()
        (bundle_copy / "model.safetensors").write_bytes(b"others")
        with pytest.raises(BundleError, match="it was built from other weights than the bundle has now"):
            newest_engine(bundle_copy)


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_an_exported_file_predicts_without_pytorch(write_onnx: Any, tmp_path: Path, backend: str) -> None:
    path = write_onnx(tmp_path / "model.onnx")
    program = (
        "import sys, numpy, zoo\n"
        f"model = zoo.load({str(path)!r}, backend={backend!r}, device='cpu')\n"
        "mask = model(numpy.full((8, 8, 3), 200, numpy.uint8))\n"
        "sys.exit(f'mask {mask.min()}, torch ' + str('torch' in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == "mask 1, torch False"
