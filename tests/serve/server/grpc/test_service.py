"""The Open Inference Protocol over gRPC: an unmodified `tritonclient.grpc` and plain calls, real servers."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from tritonclient import grpc as triton
from tritonclient import http as triton_http
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from tests.bundles import calibrate_by
from tests.serve.server.conftest import IMAGES, Served
from zoo.bundle.reliability import Calibration
from zoo.predictors.load import load_predictor
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.serve.server.grpc.codec import MAX_VALUES
from zoo.serve.server.grpc.service import senders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conftest import WriteOnnx
    from tests.serve.server.conftest import Running, ServeApp, StandIn

    Images = NDArray[np.uint8]

METHODS = "/inference.GRPCInferenceService/"


@pytest.fixture
def served(serve_app: ServeApp, write_onnx: WriteOnnx, tmp_path: Path) -> Iterator[Served]:
    predictor = OrtPredictor(write_onnx(tmp_path / "model.onnx"), threads=1)
    server = serve_app({"bright": predictor}, grpc=True)
    with client_of(server) as client:
        yield Served(server, client, predictor)


def client_of(server: Running) -> Any:
    return triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")


def inputs(images: Images = IMAGES, api: Any = triton) -> list[Any]:
    tensor = api.InferInput("image", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    return [tensor]


def request(images: Images = IMAGES[:1], model: str = "stand-in", **changes: Any) -> pb.ModelInferRequest:
    """Return a request with its values as numbers; `changes` are fields of its input."""
    fields = {
        "name": "image",
        "datatype": "UINT8",
        "shape": images.shape,
        "contents": pb.InferTensorContents(uint_contents=images.ravel().tolist()),
    }
    return pb.ModelInferRequest(model_name=model, inputs=[fields | changes])


def raw(*data: bytes, shape: tuple[int, ...] = (1, 1, 2, 3)) -> pb.ModelInferRequest:
    tensor = {"name": "image", "datatype": "UINT8", "shape": shape}
    return pb.ModelInferRequest(model_name="stand-in", inputs=[tensor], raw_input_contents=data)


def call(server: Running, method: str, message: Any, answer: Any = pb.ModelInferResponse, **how: Any) -> Any:
    """Return the response to a message, or to bytes."""
    path = method if method.startswith("/") else METHODS + method
    content = message if isinstance(message, bytes) else message.SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        return answer.FromString(channel.unary_unary(path)(content, **{"timeout": 20, **how}))


def refusal(server: Running, method: str, message: Any, **how: Any) -> tuple[str, str]:
    """Return code and words of the error that a message gets."""
    with pytest.raises(grpc.RpcError) as caught:
        call(server, method, message, **how)
    return caught.value.code().name, caught.value.details()


def counted(server: Running, route: str, status: str, model: str) -> bool:
    line = f'zoo_requests_total{{model="{model}",route="{route}",status="{status}"}} 1.0'
    return line in server.client.get("/metrics").text


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_tritonclient_finds_server_and_model_alive_and_ready(served: Served) -> None:
    client = served.client
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("bright")
    assert client.is_model_ready("bright", "1")
    assert not client.is_model_ready("bright", "2")
    assert not client.is_model_ready("dim")


def test_the_metadata_are_those_of_http(served: Served) -> None:
    by_http = triton_http.InferenceServerClient(f"127.0.0.1:{served.server.port}")
    server = served.client.get_server_metadata(as_json=True)
    assert (server["name"], server["version"]) == ("zoo", by_http.get_server_metadata()["version"])
    model = served.client.get_model_metadata("bright", as_json=True)
    for tensor in model["inputs"] + model["outputs"]:
        tensor["shape"] = list(map(int, tensor["shape"]))
    assert model == by_http.get_model_metadata("bright")
    by_http.close()


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_masks_are_those_of_the_predictor_and_of_http(served: Served, compression: str | None) -> None:
    result = served.client.infer(
        "bright", inputs(), model_version="1", request_id="seven", compression_algorithm=compression
    )
    with triton_http.InferenceServerClient(f"127.0.0.1:{served.server.port}") as client:
        by_http = client.infer("bright", inputs(api=triton_http)).as_numpy("mask")
    mask, expected = result.as_numpy("mask"), served.predictor.run(IMAGES)
    assert 0 < expected.mean() < 1
    assert mask.dtype == by_http.dtype == expected.dtype
    assert mask.tolist() == by_http.tolist() == expected.tolist()
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("seven", "bright", "1")


def test_numbers_are_answered_with_numbers_and_bytes_with_bytes(served: Served) -> None:
    images = IMAGES[:2, :8, :6]
    expected = served.predictor.run(images)
    numbers = call(served.server, "ModelInfer", request(images, "bright"))
    assert not numbers.raw_output_contents
    assert (numbers.outputs[0].name, numbers.outputs[0].datatype) == ("mask", "UINT8")
    assert list(numbers.outputs[0].shape) == [2, 8, 6]
    assert list(numbers.outputs[0].contents.uint_contents) == expected.ravel().tolist()
    message = raw(images.tobytes(), shape=images.shape)
    message.model_name = "bright"
    data = call(served.server, "ModelInfer", message)
    assert not data.outputs[0].HasField("contents")
    assert data.raw_output_contents[0] == expected.tobytes()


def test_confidence_and_reliability_are_those_of_http(serve_app: ServeApp, bundle_copy: Path) -> None:
    calibration = Calibration(score="temperature", temperature=0.1)
    calibrate_by(bundle_copy, calibration)
    server = serve_app({"tiny": load_predictor(bundle_copy)}, grpc=True)
    names = ("reliability", "mask", "confidence")
    found = []
    for api, port in ((triton, server.grpc_port), (triton_http, server.port)):
        with api.InferenceServerClient(f"127.0.0.1:{port}") as client:
            wanted = [api.InferRequestedOutput(name) for name in names]
            result = client.infer("tiny", inputs(IMAGES[:1], api), outputs=wanted)
            found.append([result.as_numpy(name) for name in names])
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()
    assert len(np.unique(found[0][0])) > 10


def test_unsure_pixels_are_unknown_as_over_http(serve_app: ServeApp, bundle_copy: Path) -> None:
    calibrate_by(bundle_copy, Calibration(score="temperature", temperature=0.1))
    local = load_predictor(bundle_copy)
    server = serve_app({"tiny": local}, grpc=True)
    values = local.infer(IMAGES[:1], ("mask", "reliability"))
    below = float(np.median(values["reliability"])) / 255
    expected = np.where(values["reliability"] < 255 * below, 255, values["mask"])
    assert 0.02 < (expected == 255).mean() < 0.98
    for api, port in ((triton, server.grpc_port), (triton_http, server.port)):
        with api.InferenceServerClient(f"127.0.0.1:{port}") as client:
            result = client.infer("tiny", inputs(IMAGES[:1], api), parameters={"unknown_below": below})
            assert np.array_equal(result.as_numpy("mask"), expected)
            assert result.as_numpy("reliability") is None
            everywhere = client.infer("tiny", inputs(IMAGES[:1], api), parameters={"unknown_below": 0})
            assert np.array_equal(everywhere.as_numpy("mask"), values["mask"])
            with pytest.raises(InferenceServerException, match=r"parameters\.unknown_below"):
                client.infer("tiny", inputs(IMAGES[:1], api), parameters={"unknown_below": 60})
            with pytest.raises(InferenceServerException, match="expected mask among the outputs"):
                client.infer(
                    "tiny",
                    inputs(IMAGES[:1], api),
                    outputs=[api.InferRequestedOutput("reliability")],
                    parameters={"unknown_below": 0.5},
                )


def test_many_clients_at_once_get_their_own_masks(serve_app: ServeApp, stand_in: StandIn) -> None:
    predictor = stand_in(base_s=0.002, image_s=0)
    server = serve_app({"stand-in": predictor}, grpc=True, max_batch=8, queue=200)

    def ask(seed: int) -> bool:
        images = np.random.default_rng(seed).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
        with client_of(server) as client:
            results = [client.infer("stand-in", inputs(images)).as_numpy("mask") for _ in range(4)]
        return all((result == images[..., 0] >> 7).all() for result in results)

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(ask, range(32)))
    assert max(shape[0] for shape in predictor.shapes) > 1  # type: ignore[attr-defined]


WRONG: list[tuple[Any, str, str]] = [
    (request(model="dim"), "NOT_FOUND", "got model 'dim', expected one of stand-in"),
    (request(IMAGES[0]), "INVALID_ARGUMENT", "expected [batch, height, width, 3]"),
    (request(name="pixels"), "INVALID_ARGUMENT", "expected 'image' of 'UINT8'"),
    (request(datatype="FP32"), "INVALID_ARGUMENT", "got input 'image' of 'FP32'"),
    (request(shape=[1] * 9), "INVALID_ARGUMENT", "at most 8"),
    (request(shape=[1, 1, 1, 3]), "INVALID_ARGUMENT", "expected 3 integers of shape [1, 1, 1, 3]"),
    (request(contents=None), "INVALID_ARGUMENT", "got 0 values"),
    (request(contents={"int_contents": [1]}), "INVALID_ARGUMENT", "got int_contents of UINT8"),
    (request(IMAGES[:1, :1, :1], contents={"uint_contents": [1, 2, 256]}), "INVALID_ARGUMENT", "1..256"),
    (raw(b"12345"), "INVALID_ARGUMENT", "got 5 bytes of 'image', expected 6 of shape [1, 1, 2, 3]"),
    (raw(b"123456", b"1"), "INVALID_ARGUMENT", "got 2 raw_input_contents"),
    (pb.ModelInferRequest(model_name="stand-in"), "INVALID_ARGUMENT", "inputs: "),
    (b"\xff\xff", "INVALID_ARGUMENT", "got 2 bytes, expected a ModelInferRequest"),
    (raw(bytes([255, 0, 0] * 2)), "INTERNAL", "stand-in failed on this image"),
]
"""Messages, and code and words of their errors."""


def test_a_wrong_request_gets_the_words_of_http(stand_in_server: Running) -> None:
    for message, code, words in WRONG:
        found = refusal(stand_in_server, "ModelInfer", message)
        assert found[0] == code, found
        assert words in found[1]
        assert "\n" not in found[1]
        assert "/srv" not in found[1]


@pytest.fixture
def stand_in_server(serve_app: ServeApp) -> Running:
    return serve_app(grpc=True)


def test_words_of_http_and_grpc_are_the_same(served: Served) -> None:
    wrong = {"dim": IMAGES, "bright": IMAGES[0]}
    with triton_http.InferenceServerClient(f"127.0.0.1:{served.server.port}") as client:
        for model, images in wrong.items():
            with pytest.raises(InferenceServerException) as by_http:
                client.infer(model, inputs(images, triton_http))
            with pytest.raises(InferenceServerException) as by_grpc:
                served.client.infer(model, inputs(images))
            assert by_grpc.value.message() == by_http.value.message()
    unknown = triton.InferRequestedOutput("logits")
    with pytest.raises(InferenceServerException, match="got output 'logits'"):
        served.client.infer("bright", inputs(), outputs=[unknown])


def test_methods_that_only_triton_has_are_unimplemented(served: Served) -> None:
    with pytest.raises(InferenceServerException, match="got method 'ModelConfig', expected one of") as caught:
        served.client.get_model_config("bright")
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    assert refusal(served.server, "/other.Service/ServerLive", b"")[0] == "UNIMPLEMENTED"


def test_a_message_over_the_limit_is_refused_compressed_or_not(serve_app: ServeApp) -> None:
    server = serve_app(grpc=True, max_body_mb=0.2)
    for compression in (None, grpc.Compression.Gzip):
        code, words = refusal(server, "ModelInfer", bytes(2_000_000), compression=compression)
        assert code == "RESOURCE_EXHAUSTED"
        assert "larger than max" in words
    eventually(lambda: server.app.state.context.budget.held == 0)
    assert 'zoo_errors_total{kind="too-large"} 2.0' in server.client.get("/metrics").text
    message = raw(IMAGES.tobytes(), shape=IMAGES.shape)
    assert call(server, "ModelInfer", message).model_name == "stand-in"


def test_too_many_numbers_and_too_many_images_are_refused(serve_app: ServeApp) -> None:
    server = serve_app(grpc=True, queue=1, max_batch=1)
    numbers = pb.InferTensorContents(uint_contents=bytes(MAX_VALUES + 1))
    code, words = refusal(server, "ModelInfer", request(contents=numbers))
    assert (code, "send raw_input_contents" in words) == ("RESOURCE_EXHAUSTED", True)
    code, words = refusal(server, "ModelInfer", raw(IMAGES.tobytes(), shape=IMAGES.shape))
    assert (code, "got 3 images at once" in words) == ("RESOURCE_EXHAUSTED", True)


def test_more_than_the_queue_holds_is_unavailable_with_a_time_to_come_back(
    serve_app: ServeApp, stand_in: StandIn
) -> None:
    server = serve_app({"stand-in": stand_in(base_s=0.3)}, grpc=True, queue=1, max_batch=1)
    message = raw(b"123456").SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        infer = channel.unary_unary(METHODS + "ModelInfer")
        pending = [infer.future(message, timeout=20) for _ in range(6)]
        codes = [each.code() for each in pending]
        refused = next(each for each in pending if each.code() is grpc.StatusCode.UNAVAILABLE)
    assert codes.count(grpc.StatusCode.OK) == 2
    assert codes.count(grpc.StatusCode.UNAVAILABLE) == 4
    assert "try again in" in refused.details()
    assert int(dict(refused.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1000


def test_the_limit_of_time_and_the_deadline_of_the_client_end_a_call(
    serve_app: ServeApp, stand_in: StandIn
) -> None:
    predictor = stand_in(base_s=0.6)
    server = serve_app({"stand-in": predictor}, grpc=True, timeout=0.3, max_batch=1)
    code, words = refusal(server, "ModelInfer", raw(b"123456"))
    assert (code, "the image ran too long" in words) == ("DEADLINE_EXCEEDED", True)
    assert refusal(server, "ModelInfer", raw(b"123456"), timeout=0.1)[0] == "DEADLINE_EXCEEDED"
    eventually(lambda: counted(server, METHODS + "ModelInfer", "499", "stand-in"))
    assert counted(server, METHODS + "ModelInfer", "504", "stand-in")


def test_a_message_that_does_not_come_ends_in_time(serve_app: ServeApp) -> None:
    server = serve_app(grpc=True, timeout=0.2)

    async def codes() -> list[tuple[str, str]]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            infer = channel.stream_unary(METHODS + "ModelInfer")
            slow = infer()
            none = infer()
            await none.done_writing()
            return [((await each.code()).name, await each.details()) for each in (slow, none)]

    slow, none = asyncio.run(codes())
    assert (slow[0], "no complete message in 0.2 s" in slow[1]) == ("DEADLINE_EXCEEDED", True)
    assert none == ("INVALID_ARGUMENT", "got no message, expected a ModelInferRequest: send one")
    assert server.app.state.context.budget.held == 0


def test_a_call_that_is_canceled_leaves_the_queue(serve_app: ServeApp, stand_in: StandIn) -> None:
    predictor = stand_in(base_s=0.4)
    server = serve_app({"stand-in": predictor}, grpc=True, max_batch=1)
    model = server.models["stand-in"]
    message = raw(b"123456").SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        infer = channel.unary_unary(METHODS + "ModelInfer")
        first = infer.future(message)
        eventually(lambda: model.running_s > 0)
        waiting = [infer.future(message) for _ in range(5)]
        eventually(lambda: model.waiting == 5)
        for each in waiting:
            each.cancel()
        eventually(lambda: model.waiting == 0)
        assert first.result(20)
    assert len(predictor.shapes) == 2  # type: ignore[attr-defined]  # the first is the warm-up
    eventually(lambda: server.app.state.context.budget.held == 0)


def test_a_key_is_needed_except_by_probes(serve_app: ServeApp) -> None:
    server = serve_app(grpc=True, api_key="secret")
    for metadata in ((), (("authorization", "Bearer wrong"),), (("x-api-key", "secre"),)):
        code, words = refusal(server, "ModelInfer", raw(b"123456"), metadata=metadata)
        assert (code, "got no key or a wrong one" in words) == ("UNAUTHENTICATED", True)
    with client_of(server) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="got no key"):
            client.get_server_metadata()
        for headers in ({"authorization": "Bearer secret"}, {"x-api-key": "secret"}):
            mask = client.infer("stand-in", inputs(), headers=headers).as_numpy("mask")
            assert mask.tolist() == (IMAGES[..., 0] >> 7).tolist()


def test_without_a_key_what_a_proxy_forwards_from_other_machines_is_refused(stand_in_server: Running) -> None:
    metadata = (("x-forwarded-for", "192.0.2.7"),)
    code, words = refusal(stand_in_server, "ServerLive", b"", metadata=metadata)
    assert (code, "other machines need a key" in words) == ("PERMISSION_DENIED", True)
    assert call(stand_in_server, "ServerLive", b"", pb.ServerLiveResponse).live
    assert senders("ipv4:192.0.2.7:99", {}) == ["192.0.2.7"]
    assert senders("ipv6:%5B::1%5D:99", {}) == ["::1"]
    assert senders("unix:", {}) == []


def test_a_model_that_fails_is_not_ready(serve_app: ServeApp, stand_in: StandIn) -> None:
    predictor = stand_in(base_s=0)
    server = serve_app({"stand-in": predictor}, grpc=True)
    predictor.broken = True  # type: ignore[attr-defined]
    with client_of(server) as client:
        assert client.is_server_live()
        assert not client.is_server_ready()
        for _ in range(4):
            with pytest.raises(InferenceServerException, match="failed on this image"):
                client.infer("stand-in", inputs(IMAGES[:1]))
        assert not client.is_model_ready("stand-in")


def test_calls_are_counted_beside_requests_and_keep_their_id(stand_in_server: Running) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{stand_in_server.grpc_port}") as channel:
        infer = channel.unary_unary(METHODS + "ModelInfer")
        content = raw(b"123456").SerializeToString()
        _, done = infer.with_call(content, metadata=(("x-request-id", "mine"),))
    assert dict(done.trailing_metadata())["x-request-id"] == "mine"
    refusal(stand_in_server, "ModelConfig", b"")
    assert counted(stand_in_server, METHODS + "ModelInfer", "200", "stand-in")
    assert counted(stand_in_server, "other", "405", "")
    assert 'zoo_batch_size_count{model="stand-in"}' in stand_in_server.client.get("/metrics").text
