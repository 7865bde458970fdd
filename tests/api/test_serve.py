"""`zoo.serve`: an ASGI app with the behavior of the command."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

import zoo
from zoo.errors import ZooError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IMAGE = np.full((64, 64, 3), 200, np.uint8)


@pytest.fixture
def onnx(write_onnx: Callable[..., Path], tmp_path: Path) -> Path:
    return write_onnx(tmp_path / "bright.onnx")


def test_the_app_predicts_the_mask_of_the_model(onnx: Path) -> None:
    app = zoo.serve(onnx, device="cpu")
    assert isinstance(app, FastAPI)
    body = io.BytesIO()
    Image.fromarray(IMAGE).save(body, format="PNG")
    with TestClient(app, "http://localhost", client=("127.0.0.1", 1)) as client:
        assert client.get("/readyz").status_code == 200
        assert [model["name"] for model in client.get("/models").json()] == ["bright"]
        answer = client.post("/predict?format=png", content=body.getvalue())
    assert answer.status_code == 200, answer.text
    mask = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert np.array_equal(mask, zoo.load(onnx, device="cpu")(IMAGE))


def test_models_have_the_names_of_a_mapping(onnx: Path) -> None:
    app = zoo.serve({"first": onnx, "second": onnx}, device="cpu")
    assert list(app.state.context.models) == ["first", "second"]
    with pytest.raises(ZooError, match="got two models named bright"):
        zoo.serve([onnx, onnx])


def test_settings_are_those_of_the_command_with_the_same_defaults(onnx: Path) -> None:
    from zoo.serve.server.core.settings import ServerSettings

    assert zoo.serve(onnx, device="cpu").state.context.settings == ServerSettings()
    found = zoo.serve(onnx, device="cpu", queue=3, cors=["https://maps.example.com/"]).state.context.settings
    assert (found.queue, found.cors) == (3, ("https://maps.example.com",))
    with pytest.raises(ZooError, match="queue: Input should be greater than or equal to 1"):
        zoo.serve(onnx, queue=0)
    with pytest.raises(ZooError, match="timeout: Input should be less than or equal to 86400"):
        zoo.serve(onnx, timeout=float("inf"))
