"""`model.py` of the python flavor, with a stand-in for Triton's own module."""

from __future__ import annotations

import importlib.util
import json
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch

from zoo.export.triton.repository import PYTHON_MODEL
from zoo.machine import int8_overflows
from zoo.predictors.runtimes.ort import EXACT_INT8

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Load = Callable[..., Any]

ARGUMENTS = {"model_version": "1", "model_instance_device_id": "0", "model_instance_kind": "CPU"}


class Tensor(NamedTuple):
    name: str
    value: NDArray[Any]

    def as_numpy(self) -> NDArray[Any]:
        return self.value


class TritonError(Exception):
    INVALID_ARG = "invalid"


class Response(NamedTuple):
    output_tensors: tuple[Tensor, ...] = ()
    error: TritonError | None = None


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_onnx: Any) -> Load:
    """Return a function that starts the model as Triton does, as copied to a folder of its own."""
    stand_in = SimpleNamespace(
        Tensor=Tensor,
        InferenceResponse=Response,
        TritonError=TritonError,
        TritonModelException=RuntimeError,
        get_input_tensor_by_name=lambda request, name: request[name],
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stand_in)
    (tmp_path / "1").mkdir()
    write_onnx(tmp_path / "1" / "model.onnx")
    copy = tmp_path / "1" / "model.py"
    copy.write_bytes(PYTHON_MODEL.read_bytes())

    def started(**changes: str) -> Any:
        spec = importlib.util.spec_from_file_location("copied_model", copy)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        config = {"input": [{"name": "image"}], "output": [{"name": "mask"}]}
        facts = {"model_config": json.dumps(config), "model_repository": str(tmp_path)}
        model.initialize({**facts, **ARGUMENTS, **changes})
        return model

    return started


def request(*values: int, height: int = 2) -> dict[str, Tensor]:
    images = np.stack([np.full((height, 3, 3), value, np.uint8) for value in values])
    return {"image": Tensor("image", images)}


def test_requests_are_run_as_one_batch_and_answered_one_by_one(load: Load) -> None:
    model = load()
    shapes = []
    run = model.session.run

    def noted(outputs: Any, inputs: dict[str, NDArray[np.uint8]]) -> Any:
        shapes.append(inputs["image"].shape)
        return run(outputs, inputs)

    model.session = SimpleNamespace(run=noted)
    responses = model.execute([request(200), request(10, 210, 20), request(30, 220)])
    assert shapes == [(6, 2, 3, 3)]
    masks = [response.output_tensors[0] for response in responses]
    assert [mask.name for mask in masks] == ["mask"] * 3
    assert [mask.value[:, 0, 0].tolist() for mask in masks] == [[1], [0, 1, 0], [0, 1]]
    assert {mask.value.shape[1:] for mask in masks} == {(2, 3)}


def test_sums_of_int8_products_are_exact_where_the_fast_ones_overflow(load: Load) -> None:
    options = load().session.get_session_options()
    with nullcontext() if int8_overflows() else pytest.raises(RuntimeError, match="does not have"):
        assert options.get_session_config_entry(EXACT_INT8[0]) == "1"


def test_images_without_pixels_are_the_clients_fault(load: Load) -> None:
    (response,) = load().execute([request(1, height=0)])
    assert response.error is not None
    assert response.error.args == ("got images of shape (1, 0, 3, 3), expected at least one pixel", "invalid")


@pytest.mark.skipif(torch.cuda.is_available(), reason="its GPU may be usable")
def test_a_gpu_that_cannot_be_used_is_an_error_and_not_the_cpu(load: Load) -> None:
    with pytest.raises(
        RuntimeError, match=r"cannot use CUDAExecutionProvider, got CPU.*: install onnxruntime-gpu"
    ):
        load(model_instance_kind="GPU")


def test_the_file_needs_nothing_that_a_server_lacks(load: Load) -> None:
    assert load().session.get_providers() == ["CPUExecutionProvider"]
    lines = PYTHON_MODEL.read_text(encoding="utf-8").splitlines()
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    standard = imported & sys.stdlib_module_names
    assert imported - standard == {"numpy", "onnxruntime", "triton_python_backend_utils"}
