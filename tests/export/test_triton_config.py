"""`config.pbtxt`: how to serve a model and how to ask it, as Triton's own protobuf reads it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tritonclient.grpc import model_config_pb2

from zoo import __version__
from zoo.bundle.manifest import sha256
from zoo.bundle.reliability import Calibration
from zoo.classes import Classes
from zoo.errors import ExportError
from zoo.export.triton.config import FLAVORS, LABELS_NAME, Served, check_protobuf, config_text, parse_config
from zoo.predictors.artifact import ArtifactMetadata
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Serve = Callable[..., Served]

CLASSES = Classes.of(("sky", "Straße"))


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Return a function that describes a model with changes to it and to its metadata."""
    (tmp_path / "model.onnx").write_bytes(b"an artifact")

    def served(flavor: str = "onnx", batch: tuple[int, int, int] = (1, 2, 4), **changes: Any) -> Served:
        facts: dict[str, Any] = {
            "names": CLASSES.names,
            "palette": CLASSES.palette,
            "preprocessing": Preprocessing(imgsz=(96, 64), resize="stretch"),
            "precision": "fp32",
            "weights_sha256": "0" * 64,
        }
        metadata = ArtifactMetadata(**{**facts, **changes})
        artifact = tmp_path / "model.onnx"
        return Served(f"eln_{flavor}", FLAVORS[flavor], artifact, metadata, batch, {"gpu": "NVIDIA L4"})

    return served


def config_of(model: Served) -> Any:
    return parse_config(config_text(model))


@pytest.mark.parametrize(
    ("flavor", "platform", "backend", "kind", "delay_us"),
    [
        ("onnx", "onnxruntime_onnx", "onnxruntime", "KIND_GPU", 2000),
        ("plan", "tensorrt_plan", "tensorrt", "KIND_GPU", 2000),
        ("python", "", "python", "KIND_CPU", 0),
    ],
)
def test_each_flavor_has_its_backend_and_device(
    serve: Serve, flavor: str, platform: str, backend: str, kind: str, delay_us: int
) -> None:
    config = config_of(serve(flavor))
    assert (config.name, config.platform, config.backend) == (f"eln_{flavor}", platform, backend)
    (group,) = config.instance_group
    assert (model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind), group.count) == (kind, 1)
    assert config.dynamic_batching.max_queue_delay_microseconds == delay_us
    assert config.version_policy.latest.num_versions == 1


def test_images_are_batched_up_to_the_largest_batch(serve: Serve) -> None:
    config = config_of(serve())
    (image,) = config.input
    assert (image.name, image.data_type) == ("image", model_config_pb2.TYPE_UINT8)
    assert list(image.dims) == [-1, -1, 3]
    assert config.max_batch_size == 4
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4]
    assert not config.dynamic_batching.HasField("default_queue_policy")


def test_the_first_request_is_not_a_users(serve: Serve) -> None:
    warmups = config_of(serve(batch=(2, 2, 8))).model_warmup
    assert [warmup.batch_size for warmup in warmups] == [2, 8]
    for warmup in warmups:
        assert list(warmup.inputs["image"].dims) == [96, 64, 3]


def test_one_image_at_a_time_waits_for_no_other(serve: Serve) -> None:
    config = config_of(serve(batch=(1, 1, 1)))
    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")
    assert [warmup.batch_size for warmup in config.model_warmup] == [1]


def test_clients_are_told_how_to_prepare_images_and_read_masks(serve: Serve) -> None:
    model = serve()
    told = {key: value.string_value for key, value in config_of(model).parameters.items()}
    assert json.loads(told["classes"]) == ["sky", "Straße"]
    assert json.loads(told["palette"]) == [[0, 0, 0], [128, 0, 0]]
    assert (json.loads(told["imgsz"]), told["resize"]) == ([96, 64], "stretch")
    assert (told["precision"], told["gpu"], told["zoo"]) == ("fp32", "NVIDIA L4", __version__)
    assert told["artifact_sha256"] == sha256(model.artifact)


MASK = ("mask", "TYPE_UINT8", [-1, -1], LABELS_NAME)


@pytest.mark.parametrize(
    ("changes", "outputs"),
    [
        ({}, [MASK]),
        ({"output": "mask+confidence"}, [MASK, ("confidence", "TYPE_UINT8", [-1, -1], "")]),
        (
            {"output": "mask+reliability", "calibration": Calibration(temperature=2.0)},
            [MASK, ("reliability", "TYPE_UINT8", [-1, -1], "")],
        ),
        ({"output": "logits"}, [("logits", "TYPE_FP32", [2, -1, -1], LABELS_NAME)]),
        (
            {"names": ("a",) * 300, "palette": ((0, 0, 0),) * 300},
            [("mask", "TYPE_INT32", [-1, -1], LABELS_NAME)],
        ),
    ],
)
def test_outputs_are_those_of_the_artifact(serve: Serve, changes: dict[str, Any], outputs: list[Any]) -> None:
    found = [
        (each.name, model_config_pb2.DataType.Name(each.data_type), list(each.dims), each.label_filename)
        for each in config_of(serve(**changes)).output
    ]
    assert found == outputs


def test_a_value_that_the_protobuf_refuses_is_named(serve: Serve) -> None:
    model = serve()
    flavor = model.flavor._replace(kind="KIND_NPU")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=r"refuses the configuration of eln_onnx .*KIND_NPU.*: pip install"):
        config_text(model._replace(flavor=flavor))


def test_a_text_that_is_no_configuration_is_refused_with_its_place() -> None:
    with pytest.raises(ExportError, match=r"config\.pbtxt is not a Triton configuration: 2:1 .*nome"):
        parse_config('name: "eln"\nnome: "eln"')


def test_a_missing_protobuf_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.export.triton.config.PROTOBUF", "no_such_package")
    with pytest.raises(ExportError, match=r"--triton needs .*no_such_package.*'semiseg-zoo\[triton\]'"):
        check_protobuf()
