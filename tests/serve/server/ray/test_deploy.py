"""The app on Ray Serve: the same answers, and none lost when replicas die or models are replaced."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import signal
from typing import TYPE_CHECKING, Any

import httpx2
import onnx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from zoo.errors import ZooError
from zoo.serve.server.core.loading import ModelSource, fingerprint
from zoo.serve.server.core.settings import ServerSettings
from zoo.serve.server.http.app import create_app
from zoo.serve.server.processes.job import Job
from zoo.serve.server.processes.worker import load_models
from zoo.serve.server.ray.deploy import APP, deploy, serve_on_ray
from zoo.serve.server.ray.options import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    UnderLoad = Callable[..., Any]
    WriteOnnx = Callable[..., Path]

TWO = Cluster(min_replicas=2, max_replicas=2, cpus=0.5, port=8721)
LIMIT = 384
"""Sum of red, green and blue over which a pixel is bright."""


def gray(level: int) -> bytes:
    """Return a PNG of one gray."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (level,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def job_of(path: Path) -> Job:
    return Job((ModelSource("threshold", path, "ort"),), ServerSettings())


def write_model(write_onnx: WriteOnnx, path: Path, limit: float = LIMIT) -> Path:
    """Write a model that calls a pixel bright over a limit."""
    write_onnx(path)
    model = onnx.load(path)
    tensor = next(each for each in model.graph.initializer if each.name == "threshold")
    tensor.CopyFrom(onnx.helper.make_tensor("threshold", onnx.TensorProto.FLOAT, [], [limit]))
    onnx.save(model, path)
    return path


def names(url: str, body: bytes) -> list[str]:
    """Return the classes that the server sees in an image."""
    answer = httpx2.post(f"{url}/predict", params={"format": "json"}, content=body).raise_for_status()
    return [area["name"] for area in answer.json()["areas"]]


def replica_pids() -> list[int]:
    import ray

    actors = [
        ray.get_actor(actor["name"], namespace=actor["namespace"])
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if f"{APP}#Replica#" in actor["name"]
    ]
    return [ray.get(actor.__ray_call__.remote(lambda _: os.getpid())) for actor in actors]


def test_a_version_tells_files_apart_by_their_contents(write_onnx: WriteOnnx, tmp_path: Path) -> None:
    first, same, other = (tmp_path / name / "model.onnx" for name in ("a", "b", "c"))
    for path, limit in ((first, LIMIT), (same, LIMIT), (other, LIMIT + 1)):
        path.parent.mkdir()
        write_model(write_onnx, path, limit)
    assert fingerprint(first) == fingerprint(same) != fingerprint(other)
    shutil.copy(first, first.with_name("second.onnx"))
    assert fingerprint(first.parent) != fingerprint(same.parent)


def test_replicas_are_given_the_smaller_number_first() -> None:
    with pytest.raises(ValueError, match=r"4\.\.2 replicas: the first is the smaller one"):
        Cluster(min_replicas=4, max_replicas=2)


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    with pytest.raises(
        ZooError, match=r"needs ray, which is not installed: pip install 'semiseg-zoo\[ray\]'"
    ):
        serve_on_ray(job_of(tmp_path), TWO, print)


@pytest.fixture(scope="module")
def model(
    ray_url: str,
    write_onnx: WriteOnnx,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return a model that two replicas serve."""
    path = write_model(write_onnx, tmp_path_factory.mktemp("ray") / "threshold.onnx")
    assert ray_url.endswith(str(TWO.port))
    (served,) = deploy(job_of(path), TWO)
    assert served.name == "threshold"
    return path


@pytest.mark.slow
class TestOnACluster:
    def test_answers_are_those_of_the_plain_app(self, ray_url: str, model: Path) -> None:
        job = job_of(model)
        body = gray(200)
        with TestClient(
            create_app(load_models(job), job.settings), "http://localhost", client=("127.0.0.1", 1)
        ) as plain:
            for path in ("/predict?format=png", "/predict?format=npy", "/predict?format=overlay"):
                assert (
                    httpx2.post(ray_url + path, content=body).content
                    == plain.post(path, content=body).content
                )
            for path in ("/", "/app.js", "/readyz", "/healthz", "/openapi.json"):
                assert httpx2.get(ray_url + path).content == plain.get(path).content, path
            for path, content in (("/predict", b"no image"), ("/predict?model=other", body)):
                there, here = httpx2.post(ray_url + path, content=content), plain.post(path, content=content)
                assert (there.status_code, there.json()) == (here.status_code, here.json())

    @pytest.mark.usefixtures("model")
    def test_no_request_fails_when_a_replica_is_killed(self, ray_url: str, under_load: UnderLoad) -> None:
        before = replica_pids()
        assert len(before) == 2
        with under_load(ray_url, gray(200)) as load:
            load.wait_for(40)
            os.kill(before[0], signal.SIGKILL)
            load.wait_for(200)
        assert load.failed == []

    def test_no_request_fails_while_a_model_is_replaced(
        self, ray_url: str, model: Path, write_onnx: WriteOnnx, under_load: UnderLoad
    ) -> None:
        body = gray(100)
        assert names(ray_url, body) == ["dark"]
        old = fingerprint(model)
        with under_load(ray_url, body) as load:
            load.wait_for(20)
            write_model(write_onnx, model, limit=100)  # under the same path
            deploy(job_of(model), TWO)
            load.wait_for(20)
        assert load.failed == []
        assert names(ray_url, body) == ["bright"]
        assert load.versions[0] == old
        assert load.versions[-1] == fingerprint(model) != old

    def test_a_model_that_cannot_be_loaded_is_said_and_the_old_one_stays(
        self, ray_url: str, model: Path
    ) -> None:
        broken = model.with_name("broken.onnx")
        broken.write_bytes(b"no model")
        with pytest.raises(ZooError, match=r"cannot be deployed on Ray.*broken\.onnx.*BundleError"):
            deploy(job_of(broken), TWO)
        assert names(ray_url, gray(200)) == ["bright"]
