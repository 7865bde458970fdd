from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from zoo.errors import BundleError
from zoo.machine import gpu_of_worker
from zoo.predictors.load import load_predictor
from zoo.serve.server.core import loading
from zoo.serve.server.core.loading import ModelSource, candidates, load_best, load_model, why_not
from zoo.serve.server.core.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

ORDER = [
    ("trt", "cuda"),
    ("ort", "cuda"),
    ("openvino", "cpu"),
    ("ort", "cpu"),
    ("eager", "cuda"),
    ("eager", "cpu"),
]


def source(path: Path, **changes: Any) -> ModelSource:
    return ModelSource("m", path, **{"threads": 1, **changes})


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "gpu_count", lambda: 0)


def test_the_fastest_backends_come_first(tmp_path: Path) -> None:
    found = candidates(source(tmp_path))
    assert [(each.backend, each.device) for each in found] == ORDER


@pytest.mark.parametrize(
    ("name", "expected"), [("m.onnx", [ORDER[1], ORDER[2], ORDER[3]]), ("m.engine", [ORDER[0]])]
)
def test_an_artifact_runs_on_the_backends_of_its_kind(name: str, expected: list[Any]) -> None:
    found = candidates(source(Path(name)))
    assert [(each.backend, each.device) for each in found] == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"backend": "ort"}, [("ort", "cuda"), ("ort", "cpu")]),
        ({"backend": "ort", "device": "cpu"}, [("ort", "cpu")]),
        ({"device": "cuda"}, [("trt", "cuda"), ("ort", "cuda"), ("eager", "cuda")]),
        ({"backend": "compile", "device": "cpu"}, [("compile", "cpu")]),
    ],
)
def test_what_is_asked_for_leaves_fewer(tmp_path: Path, asked: dict[str, str], expected: list[Any]) -> None:
    found = candidates(source(tmp_path, **asked))
    assert [(each.backend, each.device) for each in found] == expected


def test_a_backend_that_cannot_run_a_file_is_an_error() -> None:
    with pytest.raises(BundleError, match="backend trt cannot run m, expected ort or openvino"):
        candidates(source(Path("m.onnx"), backend="trt"))


def test_each_backend_that_is_left_out_has_its_reason(onnx_bundle: Path) -> None:
    loaded = load_best(source(onnx_bundle))
    assert loaded.predictor.backend == "openvino"
    assert loaded.reason == "OpenVINO; TensorRT: no NVIDIA GPU; ONNX Runtime CUDA: no NVIDIA GPU"


def test_the_next_backend_is_taken_where_a_package_is_missing(
    onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    loaded = load_best(source(onnx_bundle))
    assert loaded.predictor.backend == "ort"
    assert "OpenVINO: backend openvino needs OpenVINO" in loaded.reason


def test_a_bundle_without_an_exported_file_runs_in_pytorch_and_is_told_what_is_faster(
    tiny_bundle: Path,
) -> None:
    loaded = load_best(source(tiny_bundle))
    assert loaded.predictor.backend == "eager"
    assert "PyTorch on the CPU; zoo export makes it faster" in loaded.reason
    assert "OpenVINO: no model.onnx, zoo export makes it" in loaded.reason


def test_on_a_gpu_what_fails_there_is_left_out_with_a_reason_that_tells_no_path(
    onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "gpu_count", lambda: 1)  # which then cannot be used
    loaded = load_best(source(onnx_bundle))
    assert loaded.predictor.backend == "openvino"
    assert "TensorRT: no engine, zoo export --trt makes one; ONNX Runtime CUDA: " in loaded.reason
    assert str(onnx_bundle) not in loaded.reason
    assert "\n" not in loaded.reason


def test_nothing_that_can_run_is_an_error_with_all_reasons(onnx_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"cannot be served.*TensorRT: no NVIDIA GPU.*PyTorch on the GPU"):
        load_best(source(onnx_bundle, device="cuda"))


def test_a_broken_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no onnx")
    with pytest.raises(BundleError, match=r"m\.onnx cannot be served"):
        load_best(source(path))


def test_a_precision_chooses_its_file(onnx_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(onnx_bundle, tmp_path / "copy")
    for precision, expected in (("int8", "no model.int8.onnx, zoo export makes it"), (None, "")):
        asked = source(copy, backend="ort", device="cpu", precision=precision)
        assert why_not(candidates(asked)[0], asked, 0) == expected


def test_a_model_on_the_cpu_runs_single_images_unless_it_is_told_otherwise(onnx_bundle: Path) -> None:
    model = load_model(source(onnx_bundle), ServerSettings())
    assert model.max_batch == 1
    assert load_model(source(onnx_bundle), ServerSettings(max_batch=5)).max_batch == 5


def test_a_bundle_brings_its_card(onnx_bundle: Path) -> None:
    model = load_model(source(onnx_bundle), ServerSettings())
    assert model.card == (onnx_bundle / "README.md").read_text()
    artifact = load_model(source(onnx_bundle / "model.onnx"), ServerSettings())
    assert artifact.card == model.card


@pytest.mark.parametrize("name", ["ort", "openvino"])
@pytest.mark.parametrize("change", ["replace", "corrupt", "cut", "remove"])
def test_a_loaded_model_goes_on_when_its_file_changes(
    write_onnx: Callable[..., Path], tmp_path: Path, name: str, change: str
) -> None:
    path = write_onnx(tmp_path / "m.onnx")
    model = load_model(source(path, backend=name), ServerSettings())
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    expected = load_predictor(path, threads=1).predict(image)

    async def main() -> None:
        await model.start()
        if change == "replace":
            write_onnx(tmp_path / "other.onnx", metadata="").replace(path)
        elif change == "corrupt":
            with path.open("r+b") as file:  # the same inode
                file.write(b"\xff" * path.stat().st_size)
        elif change == "cut":
            with path.open("r+b") as file:
                file.truncate(10)
        else:
            path.unlink()
        for size in (64, 32, 64):
            [values] = await model.run(image[None, :size], deadline=time.monotonic() + 5)
            mask = values["mask"]
            assert mask.shape == (size, 64)
        assert np.array_equal(mask, expected)
        await model.probe()
        await model.stop()

    asyncio.run(main())


def test_workers_share_out_the_gpus_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu_of_worker(worker, 2) for worker in range(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [gpu_of_worker(worker, 2) for worker in range(3)] == ["3", "5", "3"]
    assert gpu_of_worker(0, 0) is None


def test_serving_an_exported_file_does_not_load_pytorch(
    write_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_onnx(tmp_path / "m.onnx")
    program = (
        "import sys; from pathlib import Path\n"
        "from zoo.serve.server.core.loading import load_model\n"
        "from zoo.serve.server.core.loading import ModelSource\n"
        "from zoo.serve.server.core.settings import ServerSettings\n"
        f"model = load_model(ModelSource('m', Path({str(path)!r}), threads=1), ServerSettings())\n"
        "assert model.backend in ('ort', 'openvino')\n"
        "heavy = {'torch', 'timm', 'matplotlib', 'onnx', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
