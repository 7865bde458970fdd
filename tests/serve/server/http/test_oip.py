"""The Open Inference Protocol: its messages, and an unmodified `tritonclient.http` on a real server."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from tests.bundles import calibrate_by
from tests.serve.server.conftest import IMAGES, Served
from zoo.bundle.reliability import Calibration
from zoo.predictors.load import load_predictor
from zoo.predictors.remote.oip import Message, infer_request, tensors_of
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.serve.server.core import oip
from zoo.serve.server.core.errors import BadRequestError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conftest import WriteOnnx
    from tests.serve.server.conftest import ServeApp


@pytest.fixture
def served(serve_app: ServeApp, write_onnx: WriteOnnx, tmp_path: Path) -> Iterator[Served]:
    predictor = OrtPredictor(write_onnx(tmp_path / "model.onnx"), threads=1)
    server = serve_app({"bright": predictor})
    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4)
    yield Served(server, client, predictor)
    client.close()


def inputs(images: NDArray[np.uint8] = IMAGES, *, binary: bool = True) -> list[Any]:
    tensor = triton.InferInput("image", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return [tensor]


def test_tritonclient_finds_server_and_model_alive_and_ready(served: Served) -> None:
    client = served.client
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("bright")
    assert client.is_model_ready("bright", "1")
    assert not client.is_model_ready("bright", "2")
    assert not client.is_model_ready("dim")


def test_tritonclient_reads_the_metadata(served: Served) -> None:
    assert served.client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    expected = {
        "name": "bright",
        "versions": ["1"],
        "platform": "zoo_ort",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
        "outputs": [{"name": "mask", "datatype": "UINT8", "shape": [-1, -1, -1]}],
    }
    assert served.client.get_model_metadata("bright") == expected
    assert served.client.get_model_metadata("bright", "1") == expected


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_masks_are_those_of_the_predictor_in_binary_and_json(
    served: Served, binary_in: bool, binary_out: bool | None
) -> None:
    outputs = None if binary_out is None else [triton.InferRequestedOutput("mask", binary_data=binary_out)]
    images = IMAGES[:, :24, :20]
    result = served.client.infer(
        "bright", inputs(images, binary=binary_in), outputs=outputs, request_id="seven"
    )
    mask = result.as_numpy("mask")
    expected = served.predictor.run(images)
    assert expected.any()
    assert not expected.all()
    assert mask.dtype == expected.dtype
    assert np.array_equal(mask, expected)
    assert result.get_response()["id"] == "seven"
    assert ("data" in result.get_response()["outputs"][0]) == (binary_out is False)


@pytest.mark.parametrize("request_compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_compression", [None, "gzip", "deflate"])
def test_tritonclient_may_compress(
    served: Served, request_compression: str | None, response_compression: str | None
) -> None:
    result = served.client.infer(
        "bright",
        inputs(),
        model_version="1",
        request_compression_algorithm=request_compression,
        response_compression_algorithm=response_compression,
    )
    assert np.array_equal(result.as_numpy("mask"), served.predictor.run(IMAGES))


def test_tritonclient_may_ask_several_times_at_once(served: Served) -> None:
    pending = [served.client.async_infer("bright", inputs(IMAGES[number % 3][None])) for number in range(8)]
    expected = served.predictor.run(IMAGES)
    for number, answer in enumerate(pending):
        assert np.array_equal(answer.get_result().as_numpy("mask")[0], expected[number % 3])


def test_tritonclient_is_told_what_is_wrong(served: Served) -> None:
    cases = {
        "expected \\[batch, height, width, 3\\]": ("bright", inputs(IMAGES[0])),
        "expected one of bright": ("dim", inputs()),
    }
    for words, (name, tensors) in cases.items():
        with pytest.raises(InferenceServerException, match=words) as caught:
            served.client.infer(name, tensors)
        assert caught.value.status() == ("400" if name == "bright" else "404")
        assert caught.value.message().startswith("got ")


def test_a_decompression_bomb_is_413(serve_app: ServeApp) -> None:
    client = serve_app(max_body_mb=0.5).client
    for encoding, bomb in (
        ("gzip", gzip.compress(bytes(50_000_000))),
        ("deflate", zlib.compress(bytes(50_000_000))),
    ):
        assert len(bomb) < 100_000
        answer = client.post(
            "/v2/models/stand-in/infer", content=bomb, headers={"content-encoding": encoding}
        )
        assert answer.status_code == 413
        assert answer.json()["error"] == answer.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ({"content-encoding": "br"}, 415, "expected gzip or deflate"),
        ({"content-encoding": "gzip"}, 400, "not gzip"),
        ({"inference-header-content-length": "x"}, 400, "expected the bytes of JSON"),
        ({"inference-header-content-length": "-1"}, 400, "expected the bytes of JSON"),
        ({"inference-header-content-length": "999"}, 400, "expected 0 to 2"),
        ({}, 400, "inputs: Field required"),
    ],
)
def test_wrong_headers_are_refused(
    serve_app: ServeApp, headers: dict[str, str], status: int, words: str
) -> None:
    answer = serve_app().client.post("/v2/models/stand-in/infer", content=b"{}", headers=headers)
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_a_plain_client_is_answered_in_compressed_json_if_it_takes_that(serve_app: ServeApp) -> None:
    body = {
        "inputs": [
            {"name": "image", "datatype": "UINT8", "shape": [1, 2, 1, 3], "data": [200, 0, 0, 9, 9, 9]}
        ]
    }
    answer = serve_app().client.post("/v2/models/stand-in/infer", json=body)
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["x-zoo-model"] == "stand-in"
    assert answer.headers["server-timing"].startswith("decode;dur=")
    assert answer.json() == {
        "model_name": "stand-in",
        "model_version": "1",
        "outputs": [{"name": "mask", "datatype": "UINT8", "shape": [1, 2, 1], "data": [1, 0]}],
    }


def request(**changes: Any) -> bytes:
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 2, 3], "data": [1, 2, 3, 4, 5, 6]}
    return json.dumps({"inputs": [tensor | changes]}).encode()


def test_json_data_may_be_flat_or_nested() -> None:
    flat = oip.parse(request(), None)
    nested = oip.parse(request(data=[[[[1, 2, 3], [4, 5, 6]]]]), None)
    assert flat.images.tolist() == nested.images.tolist() == [[[[1, 2, 3], [4, 5, 6]]]]
    assert flat.images.dtype == np.uint8


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "Invalid JSON"),
        (b"[]", "the JSON"),
        (b"[" * 100_000, "recursion"),
        (b"\xff\xfe", "Invalid JSON"),
        (b'{"inputs": []}', "at least 1"),
        (request(name="pixels"), "expected 'image'"),
        (request(datatype="FP32"), "got input 'image' of 'FP32'"),
        (request(shape=[1, 2, 3]), "got shape"),
        (request(shape=[1, 1, 2, 4]), "got shape"),
        (request(shape=[0, 1, 2, 3]), "got shape"),
        (request(shape=[1, -1, -2, 3]), "got shape"),
        (request(shape=[1] * 9), "at most 8"),
        (request(shape=[10**30, 10**30, 1, 3]), "expected 3000000"),
        (request(data=[1, 2, 3]), "got 3 values"),
        (request(data=[1, 2, 3, 4, 5, 256]), "1..256"),
        (request(data=[1, 2, 3, 4, 5, -1]), "-1..5"),
        (request(data=[1, 2, 3, 4, 5, 0.5]), "float64"),
        (request(data=["a", None, {}, [], 1, 2]), "unevenly"),
        (request(data=[10**40] * 6), "object"),
        (request(data=[[1, 2], [3]]), "unevenly"),
        (
            request(data=[[[[1, 2]], [[3, 4]], [[5, 6]]]]),
            "got data nested as [1, 3, 1, 2], expected",
        ),
        (request()[:-1] + b', "parameters": {"unknown_bellow": 0.5}}', "expected 'unknown_below'"),
        (request(data=None), "neither data nor"),
        (request(parameters={"binary_data_size": 6}), "data and binary data"),
        (request(data=None, parameters={"binary_data_size": 6}), "0 bytes after the JSON"),
        (request(data=None, parameters={"binary_data_size": -6}), "greater than or equal to 0"),
        (b'{"inputs": [' + b",".join([request()[12:-2]] * 2) + b"]}", "got 2 inputs"),
        (request()[:-1] + b', "outputs": [{"name": "logits"}]}', "got output 'logits'"),
    ],
)
def test_a_request_that_is_wrong_is_refused_in_one_line(body: bytes, words: str) -> None:
    with pytest.raises(BadRequestError, match=words.replace("[", r"\[")) as caught:
        oip.parse(body, None)
    assert "\n" not in str(caught.value)


def test_more_json_than_can_be_read_quickly_is_refused() -> None:
    with pytest.raises(TooLargeError, match="send a binary tensor"):
        oip.parse(b" " * 16_000_001, None)


@pytest.mark.parametrize("size", [5, 7])
def test_binary_data_of_another_size_than_the_shape_are_refused(size: int) -> None:
    head = request(data=None, parameters={"binary_data_size": size})
    with pytest.raises(BadRequestError, match=f"got {size} bytes of 'image', expected 6 of shape"):
        oip.parse(head + bytes(size), len(head))


def test_a_mask_of_many_classes_is_int32() -> None:
    masks = np.array([[[0, 299]]], np.int32)
    asked = oip.Asked(IMAGES, None, {"mask": True})
    rendered = oip.render(asked, {"mask": masks}, "m", "2")
    assert rendered.json_length is not None
    head = json.loads(rendered.body[: rendered.json_length])
    assert head["outputs"] == [
        {"name": "mask", "datatype": "INT32", "shape": [1, 1, 2], "parameters": {"binary_data_size": 8}}
    ]
    assert np.frombuffer(rendered.body[rendered.json_length :], "<i4").tolist() == [0, 299]


def test_the_requests_and_answers_of_clients_are_those_of_the_server() -> None:
    sent = infer_request("image", IMAGES, ("mask", "confidence"))
    asked = oip.parse(sent.body, sent.json_length, ("mask", "confidence"))
    assert np.array_equal(asked.images, IMAGES)
    outputs = {"mask": np.array([[[0, 299]]], np.int32), "confidence": np.array([[[0.5]]], np.float32)}
    rendered = oip.render(asked, outputs, "m", "2")
    assert rendered.json_length is not None
    found = tensors_of(Message(rendered.body, rendered.json_length))
    assert {name: (values.dtype, values.tolist()) for name, values in found.items()} == {
        name: (values.dtype, values.tolist()) for name, values in outputs.items()
    }


def test_outputs_are_asked_for_by_name_each_in_binary_or_json() -> None:
    names = [{"name": "confidence", "parameters": {"binary_data": True}}, {"name": "mask"}]
    body = json.dumps(json.loads(request()) | {"outputs": names}).encode()
    asked = oip.parse(body, None, ("mask", "confidence"))
    assert asked.binary == {"confidence": True, "mask": False}
    values = {"confidence": np.array([[[7, 255]]], np.uint8), "mask": np.array([[[0, 299]]], np.int32)}
    rendered = oip.render(asked, values, "m", "2")
    assert rendered.json_length is not None
    first, second = json.loads(rendered.body[: rendered.json_length])["outputs"]
    assert (first["name"], first["parameters"]) == ("confidence", {"binary_data_size": 2})
    assert (second["name"], second["datatype"], second["data"]) == ("mask", "INT32", [0, 299])
    assert rendered.body[rendered.json_length :] == bytes([7, 255])


def test_a_model_of_a_bundle_lists_and_gives_its_confidence(serve_app: ServeApp, tiny_bundle: Path) -> None:
    predictor = load_predictor(tiny_bundle)
    server = serve_app({"tiny": predictor})
    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    listed = client.get_model_metadata("tiny")["outputs"]
    assert [each["name"] for each in listed] == ["mask", "confidence"]
    wanted = [triton.InferRequestedOutput(name) for name in ("mask", "confidence")]
    result = client.infer("tiny", inputs(IMAGES[:1]), outputs=wanted)
    expected = predictor.infer(IMAGES[:1], ("mask", "confidence"))
    assert np.array_equal(result.as_numpy("mask"), expected["mask"])
    assert np.array_equal(result.as_numpy("confidence"), expected["confidence"])
    client.close()


def test_a_calibrated_model_lists_and_gives_its_reliability(serve_app: ServeApp, bundle_copy: Path) -> None:
    calibration = Calibration(score="temperature", temperature=0.1)
    calibrate_by(bundle_copy, calibration)
    predictor = load_predictor(bundle_copy)
    server = serve_app({"tiny": predictor})
    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    wanted = [triton.InferRequestedOutput("reliability")]
    result = client.infer("tiny", inputs(IMAGES[:1]), outputs=wanted).as_numpy("reliability")
    client.close()
    remote = load_predictor(f"http://127.0.0.1:{server.port}")
    assert remote.available == ("mask", "confidence", "reliability")
    expected = predictor.infer(IMAGES[:1], ("reliability",))["reliability"]
    assert len(np.unique(expected)) > 10
    assert np.array_equal(result, expected)
    assert np.array_equal(remote.infer(IMAGES[:1], ("reliability",))["reliability"], expected)
