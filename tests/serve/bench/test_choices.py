from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from zoo.errors import ZooError
from zoo.predictors.artifact import EngineInfo, Profile, info_path
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.serve.bench.choices import choices, parse_choice

if TYPE_CHECKING:
    from pathlib import Path


def names(model: Path, asked: tuple[str, ...] | None) -> list[str]:
    return [choice.name for choice, _ in choices(model, asked)]


def add_engine(bundle: Path, precision: str) -> None:
    """Write what stands beside an engine, and an engine that nothing can run."""
    metadata = OrtPredictor(bundle / "model.onnx").metadata
    shape = (1, 64, 64)
    info = EngineInfo(
        metadata=metadata.model_copy(update={"precision": precision}),
        onnx_sha256="0" * 64,
        flavor="rtx",
        version="1.0",
        sm=(86,),
        profile=Profile(min=shape, opt=shape, max=shape),
        build_seconds=1.0,
        bytes=4,
    )
    path = bundle / "engines" / f"model.{precision}.engine"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"none")
    info_path(path).write_text(info.model_dump_json())


def test_everything_whose_file_is_there_is_measured_and_nothing_else(onnx_bundle: Path) -> None:
    pytorch = ["eager", "eager-amp", "compile", "compile-amp"]
    assert names(onnx_bundle, None) == [*pytorch, "ort:fp32", "openvino:fp32"]
    shutil.copy(onnx_bundle / "model.onnx", onnx_bundle / "model.int8.onnx")
    add_engine(onnx_bundle, "fp16")
    assert names(onnx_bundle, None) == [
        *pytorch,
        "ort:fp32",
        "ort:int8",
        "openvino:fp32",
        "openvino:int8",
        "trt:fp16",
    ]


def test_a_bundle_without_exported_files_says_how_one_is_made(tiny_bundle: Path) -> None:
    assert names(tiny_bundle, None) == ["eager", "eager-amp", "compile", "compile-amp", "ort"]


def test_eager_and_eager_amp_are_always_measured_along(onnx_bundle: Path) -> None:
    assert names(onnx_bundle, ("ort",)) == ["eager", "eager-amp", "ort:fp32"]
    assert names(onnx_bundle, ("compile", "eager")) == ["eager", "eager-amp", "compile"]


def test_a_name_stands_for_every_precision_or_for_the_one_it_names(onnx_bundle: Path) -> None:
    shutil.copy(onnx_bundle / "model.onnx", onnx_bundle / "model.int8.onnx")
    assert names(onnx_bundle, ("ort",))[2:] == ["ort:fp32", "ort:int8"]
    assert names(onnx_bundle, ("ort:int8", "openvino:fp16"))[2:] == ["ort:int8", "openvino:fp16"]


def test_an_engine_that_does_not_say_what_it_is_is_still_tried(onnx_bundle: Path) -> None:
    (onnx_bundle / "engines").mkdir()
    (onnx_bundle / "engines" / "model.engine").write_bytes(b"none")
    assert names(onnx_bundle, None)[-1] == "trt"


def test_other_backends_of_an_artifact_come_from_its_bundle(onnx_bundle: Path) -> None:
    artifact = onnx_bundle / "model.onnx"
    found = [(choice.name, path) for choice, path in choices(artifact, ("ort",))]
    assert found == [("eager", onnx_bundle), ("eager-amp", onnx_bundle), ("ort", artifact)]
    assert names(artifact, None) == ["eager", "eager-amp", "ort", "openvino"]


def test_an_artifact_without_a_bundle_is_measured_alone(onnx_bundle: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "deeper" / "model.onnx"
    alone.parent.mkdir(parents=True)
    shutil.copy(onnx_bundle / "model.onnx", alone)
    assert names(alone, None) == ["ort", "openvino"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "tensorflow",
            "'tensorflow' is not a backend, expected some of eager,eager-amp,compile,compile-amp,ort",
        ),
        ("ort:int4", "'ort:int4' has an unknown precision, expected ort:fp32 or :fp16"),
        ("ort:", "'ort:' has an unknown precision"),
        ("eager:fp16", "eager runs no exported file: leave out :fp16"),
    ],
)
def test_a_wrong_name_is_an_error_that_says_what_is_right(text: str, message: str) -> None:
    with pytest.raises(ZooError, match=message):
        parse_choice(text)
