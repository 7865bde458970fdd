from __future__ import annotations

import importlib.util
import json
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import zoo
from zoo.api.evaluate import evaluate
from zoo.cli import app
from zoo.errors import BundleError, InvalidImageError
from zoo.predictors.load import load_predictor
from zoo.predictors.remote.connection import TRIES, ServerError
from zoo.predictors.remote.predictor import RemotePredictor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    WriteLinear = Callable[..., Path]


def load(name: str) -> Any:
    """Return a module beside this file; pytest puts no folder of tests on the path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


remote_server = load("remote_server")
Reply = remote_server.Reply

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO_API_KEY", raising=False)


@pytest.fixture
def server(write_linear: WriteLinear, tmp_path: Path) -> Iterator[Any]:
    predictor = load_predictor(write_linear(tmp_path / "linear.onnx", output="mask"), threads=1)
    started = remote_server.StubServer(predictor)
    yield started
    started.shutdown()
    started.server_close()


def test_a_server_says_what_its_first_model_is(server: Any) -> None:
    remote = RemotePredictor(server.url)
    assert remote.classes == server.predictor.classes
    assert remote.preprocessing == server.predictor.preprocessing
    assert remote.description == f"first 1 of {server.url}, ONNX Runtime"
    assert RemotePredictor(f"{server.url}/second").description.startswith("second 1 of ")


def test_the_masks_are_those_of_the_model_that_is_served(server: Any, noise: NDArray[np.uint8]) -> None:
    remote = load_predictor(server.url)  # type: ignore[arg-type]
    mask = remote.predict(IMAGE)
    assert (mask.shape, mask.dtype) == ((90, 70), np.uint8)
    assert np.array_equal(mask, server.predictor.predict(IMAGE))
    assert np.array_equal(remote.run(noise), server.predictor.run(noise))
    assert remote.predict_with_confidence(IMAGE).confidence is None


def test_a_mask_of_many_classes_comes_as_it_is(write_linear: WriteLinear, tmp_path: Path) -> None:
    path = write_linear(tmp_path / "many.onnx", output="mask", num_classes=300)
    server = remote_server.StubServer(load_predictor(path, threads=1))
    remote = RemotePredictor(server.url)
    assert remote.run(IMAGE[None]).dtype == np.int32
    assert np.array_equal(remote.predict(IMAGE), server.predictor.predict(IMAGE))
    assert np.array_equal(remote.run(IMAGE[None]), server.predictor.run(IMAGE[None]))
    server.shutdown()
    server.server_close()


def test_a_batch_is_sent_in_requests_that_the_server_takes(server: Any) -> None:
    images = np.random.default_rng(1).integers(0, 256, (8, 16, 24, 3), np.uint8)
    assert np.array_equal(RemotePredictor(server.url).run(images), server.predictor.run(images))
    assert server.requests.count("POST /v2/models/first/versions/1/infer") == 3


def test_the_key_is_taken_from_the_environment(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server.key = "secret"
    with pytest.raises(ServerError, match=r"needs an API key \(a key is needed\): set ZOO_API_KEY"):
        RemotePredictor(server.url)
    monkeypatch.setenv("ZOO_API_KEY", "wrong")
    with pytest.raises(ServerError, match="needs an API key") as caught:
        RemotePredictor(server.url)
    assert "wrong" not in str(caught.value)
    monkeypatch.setenv("ZOO_API_KEY", "secret")
    assert RemotePredictor(server.url).predict(IMAGE).shape == (90, 70)


@pytest.mark.parametrize("status", [503, 0])
def test_a_full_server_or_a_lost_worker_is_asked_again(server: Any, status: int) -> None:
    remote = RemotePredictor(server.url)
    server.replies = [Reply(status, "full", {"Retry-After": "0"})]
    assert np.array_equal(remote.predict(IMAGE), server.predictor.predict(IMAGE))
    assert len([request for request in server.requests if "/predict" in request]) == 2


def test_a_server_that_stays_full_is_given_up(server: Any) -> None:
    remote = RemotePredictor(server.url)
    server.replies = [Reply(503, "64 wait", {"Retry-After": "0"})] * TRIES
    with pytest.raises(ServerError, match=r"is still full after 5 tries \(64 wait\): try again later"):
        remote.predict(IMAGE)
    assert server.replies == []


def test_a_command_that_is_stopped_does_not_wait_for_a_full_server(server: Any) -> None:
    remote = RemotePredictor(server.url)
    remote.connection.give_up()
    server.replies = [Reply(503, "full", {"Retry-After": "30"})]
    with pytest.raises(ServerError, match="gets no more requests: the command was stopped"):
        remote.run(IMAGE[None])


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (400, InvalidImageError, "refused the image: what is wrong"),
        (413, InvalidImageError, "refused the image: what is wrong"),
        (415, InvalidImageError, "refused the image: what is wrong"),
        (500, BundleError, "the model failed on http://127.0.0.1:[0-9]+: what is wrong"),
        (403, ServerError, "answered 403: what is wrong"),
        (404, ServerError, "answered 404: what is wrong"),
        (504, ServerError, "answered 504: what is wrong"),
    ],
)
def test_a_refusal_is_an_error_of_one_line(server: Any, status: int, kind: Any, message: str) -> None:
    remote = RemotePredictor(server.url)
    server.replies = [Reply(status, "what is\nwrong")]
    with pytest.raises(kind, match=message) as caught:
        remote.predict(IMAGE)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there_is_an_error_of_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ServerError, match=f"{url} cannot be reached .*: start it with zoo serve"):
        zoo.load(url)


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[]", b'[{"name": "x"}]', b"{}", b"\xff"])
def test_another_server_is_an_error_of_one_line(server: Any, body: bytes) -> None:
    server.replies = [Reply(200, body=body)]
    with pytest.raises(ServerError, match="/models does not respond like zoo serve") as caught:
        RemotePredictor(server.url)
    assert "\n" not in str(caught.value)


def test_a_server_without_the_route_is_another_one(server: Any) -> None:
    server.replies = [Reply(404, body=b"not found")]
    with pytest.raises(ServerError, match=r"/models does not respond like zoo serve \(404\)"):
        RemotePredictor(server.url)


@pytest.mark.parametrize("body", [b"", b"nonsense", b"\x93NUMPY\x01\x00"])
def test_an_answer_that_is_no_mask_is_an_error(server: Any, body: bytes) -> None:
    remote = RemotePredictor(server.url)
    server.replies = [Reply(200, body=body)] * 2
    with pytest.raises(ServerError, match="/predict does not respond like zoo serve"):
        remote.predict(IMAGE)
    with pytest.raises(ServerError, match="/infer does not respond like zoo serve"):
        remote.run(IMAGE[None])


@pytest.mark.parametrize(
    "url",
    ["http://", "http://host:port", "http://a:b@host", "http://host//b", "http://host/?x=1"],
)
def test_a_url_of_no_server_is_an_error(url: str) -> None:
    with pytest.raises(ServerError, match="expected http://host:port"):
        zoo.load(url)


def test_a_model_that_is_not_served_brings_those_that_are(server: Any) -> None:
    with pytest.raises(ServerError, match="has no model 'third', expected first or second: name one"):
        zoo.load(f"{server.url}/third")


def test_a_server_has_chosen_its_backend(server: Any) -> None:
    with pytest.raises(BundleError, match="is a server, which selects its own backend, got ort"):
        zoo.load(server.url, backend="ort")


def test_a_server_has_chosen_its_device(server: Any, tmp_path: Path) -> None:
    calls: list[Callable[[], object]] = [
        lambda: zoo.load(server.url, device="cpu"),
        lambda: zoo.predict(server.url, [], device="cpu"),
        lambda: zoo.predict(server.url, [], out=tmp_path / "masks", device="cpu"),
        lambda: evaluate(server.url, data="shapes", device="cpu"),
    ]
    for call in calls:
        with pytest.raises(BundleError, match=f"got device cpu for {server.url}, which selects its own"):
            call()


def test_python_and_the_command_line_take_a_url_as_model(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, image in (("a.png", IMAGE), ("b.png", IMAGE[:50])):
        Image.fromarray(image).save(name)
    assert np.array_equal(zoo.load(server.url)("a.png"), server.predictor.predict(IMAGE))

    arguments = ["predict", f"{server.url}/first", "a.png", "b.png", "--out", "out", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["model"], found["backend"], found["kept"]) == (f"{server.url}/first", "remote", 0)
    assert np.array_equal(np.asarray(Image.open("out/a.png")), server.predictor.predict(IMAGE))
    assert np.array_equal(np.asarray(Image.open("out/b.png")), server.predictor.predict(IMAGE[:50]))
    assert json.loads(CliRunner().invoke(app, arguments).stdout)["kept"] == 2


def test_a_server_is_evaluated(server: Any, tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / "val" / name).mkdir(parents=True)
    (tmp_path / "data.toml").write_text(f"names = {list(server.predictor.classes.names)}\n")
    Image.fromarray(IMAGE).save(tmp_path / "val/images/x.png")
    Image.fromarray(server.predictor.predict(IMAGE)).save(tmp_path / "val/masks/x.png")
    result = CliRunner().invoke(
        app, ["evaluate", server.url, "--data", str(tmp_path / "data.toml"), "--json"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["miou"] == 1
    unknown = CliRunner().invoke(app, ["evaluate", server.url])
    assert isinstance(unknown.exception, BundleError)
    assert f"{server.url} does not record its training data" in str(unknown.exception)
