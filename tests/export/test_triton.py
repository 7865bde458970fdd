"""`zoo export --triton`: what is written where, with an exporter that takes no time."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from zoo.bundle.bundle import WEIGHTS_NAME, load_config
from zoo.bundle.manifest import sha256
from zoo.cli import app
from zoo.errors import ExportError, ParityError, ZooError
from zoo.export import pipeline
from zoo.export.graph.to_onnx import OnnxFacts
from zoo.export.manifest import Artifact, ExportReport
from zoo.export.triton.config import CONFIG_NAME, parse_config
from zoo.export.triton.repository import check_repository, model_name, write_repository
from zoo.predictors.artifact import (
    ONNX_NAMES,
    ArtifactMetadata,
    EngineInfo,
    Flavor,
    Precision,
    Profile,
    info_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    Report = Callable[..., ExportReport]

PROFILE = Profile(min=(1, 32, 32), opt=(2, 64, 64), max=(8, 64, 64))


def metadata_of(bundle: Path, precision: Precision = "fp32", **changes: Any) -> ArtifactMetadata:
    config = load_config(bundle)
    facts: dict[str, Any] = {
        "names": config.names,
        "palette": config.palette,
        "preprocessing": config.preprocessing,
        "precision": precision,
        "weights_sha256": sha256(bundle / WEIGHTS_NAME),
    }
    return ArtifactMetadata(**{**facts, **changes})


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Return the bundle of a run called `eln`."""
    return shutil.copytree(tiny_bundle, tmp_path / "eln" / "bundle")


@pytest.fixture
def report(bundle: Path) -> Report:
    """Return a function that reports an export of these precisions, whose files hold their names."""

    def made(*precisions: Precision) -> ExportReport:
        artifacts = []
        for precision in precisions:
            name = ONNX_NAMES[precision]
            (bundle / name).write_text(name)
            facts = {"metadata": metadata_of(bundle, precision).model_dump(mode="json")}
            artifact = Artifact(name=name, precision=precision, bytes=len(name), parity=None, facts=facts)
            artifacts.append(artifact)
        return ExportReport(bundle=str(bundle), artifacts=tuple(artifacts), files=())

    return made


def write_engine(bundle: Path, name: str, flavor: Flavor = "trt", **changes: Any) -> Path:
    engine = bundle / "engines" / name
    engine.parent.mkdir(exist_ok=True)
    engine.write_text(name)
    info = EngineInfo(
        metadata=metadata_of(bundle, "fp16", **changes),
        onnx_sha256="0" * 64,
        flavor=flavor,
        version="10.9.0",
        gpu="NVIDIA L4",
        profile=PROFILE,
        build_seconds=1,
        bytes=len(name),
    )
    info_path(engine).write_text(info.model_dump_json())
    return engine


def config_of(folder: Path) -> Any:
    return parse_config((folder / CONFIG_NAME).read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder by path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def quietly(_: str) -> None:
    pass


def test_every_flavor_that_can_be_is_written_whole(report: Report, bundle: Path, tmp_path: Path) -> None:
    made = report("fp32", "fp16", "int8")
    write_engine(bundle, "an.engine")
    repository = tmp_path / "a" / "repository"
    folders = write_repository(made, (1, 2, 4), repository, quietly)
    assert [folder.name for folder in folders] == ["eln_onnx", "eln_python", "eln_plan"]
    assert sorted(contents(repository)) == [
        "eln_onnx/1/model.onnx",
        "eln_onnx/config.pbtxt",
        "eln_onnx/labels.txt",
        "eln_plan/1/model.plan",
        "eln_plan/config.pbtxt",
        "eln_plan/labels.txt",
        "eln_python/1/model.onnx",
        "eln_python/1/model.py",
        "eln_python/config.pbtxt",
        "eln_python/labels.txt",
    ]
    onnx, python, plan = folders
    assert (onnx / "1" / "model.onnx").read_text() == "model.fp16.onnx"
    assert (python / "1" / "model.onnx").read_text() == "model.int8.onnx"
    assert (plan / "1" / "model.plan").read_text() == "an.engine"
    assert [path.name for path in repository.parent.iterdir()] == ["repository"]


def test_a_plan_is_the_newest_engine_of_these_weights_within_its_profile(
    report: Report, bundle: Path, tmp_path: Path
) -> None:
    made = report("fp16")
    write_engine(bundle, "older.engine")
    write_engine(bundle, "right.engine")
    write_engine(bundle, "other-weights.engine", weights_sha256="1" * 64)
    write_engine(bundle, "rtx.engine", flavor="rtx")
    said: list[str] = []
    *_, plan = write_repository(made, (1, 1, 4), tmp_path / "repository", said.append)
    assert (plan / "1" / "model.plan").read_text() == "right.engine"
    config = config_of(plan)
    assert config.platform == "tensorrt_plan"
    assert config.max_batch_size == 8
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 8]
    assert config.parameters["gpu"].string_value == "NVIDIA L4"
    assert json.loads(config.parameters["profile"].string_value)["max"] == [8, 64, 64]
    assert "right.engine, only for NVIDIA L4 and a Triton with TensorRT 10.9.0" in said[-1]


def test_what_is_not_written_is_said_with_the_reason(report: Report, bundle: Path, tmp_path: Path) -> None:
    made = report("int8")
    write_engine(bundle, "rtx.engine", flavor="rtx")
    said: list[str] = []
    (only,) = write_repository(made, (1, 1, 4), tmp_path / "repository", said.append)
    assert only.name == "eln_python"
    assert "no eln_onnx: this export has no ONNX file in fp16 or fp32" in said
    assert "no eln_plan: " in said[-1]
    assert "Triton cannot run tensorrt_rtx engines" in said[-1]


def test_an_export_that_triton_cannot_run_leaves_no_repository(report: Report, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no file of this export runs in Triton, .* --precision fp32"):
        write_repository(report("bf16"), (1, 1, 4), tmp_path / "repository", quietly)
    assert not (tmp_path / "repository").exists()


def test_our_models_are_replaced_and_others_are_left_alone(report: Report, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    made = report("fp32", "fp16")
    onnx, python = write_repository(made, (1, 1, 4), repository, quietly)
    (onnx / "2").mkdir()
    (repository / "detector").mkdir()
    (repository / "detector" / CONFIG_NAME).write_text('name: "detector"')
    said: list[str] = []
    assert write_repository(report("int8"), (1, 1, 2), repository, said.append) == (python,)
    assert config_of(python).max_batch_size == 2
    assert said[-1] == f"warning: {onnx} is from an earlier export: delete it if you do not need it"
    assert write_repository(made, (1, 1, 2), repository, quietly) == (onnx, python)
    assert sorted(path.name for path in onnx.iterdir()) == ["1", CONFIG_NAME, "labels.txt"]
    assert (repository / "detector" / CONFIG_NAME).read_text() == 'name: "detector"'
    assert len(list(repository.iterdir())) == 3


@pytest.mark.parametrize("text", ['name: "mine"', "nome: 1", "\udcff"])
def test_a_model_of_somebody_else_is_not_replaced(report: Report, tmp_path: Path, text: str) -> None:
    made = report("fp32")
    theirs = tmp_path / "repository" / "eln_python"
    theirs.mkdir(parents=True)
    (theirs / CONFIG_NAME).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ExportError, match="_python exists but was not written by zoo export: choose another"):
        write_repository(made, (1, 1, 4), tmp_path / "repository", quietly)
    assert [path.name for path in theirs.parent.iterdir()] == [theirs.name]


def test_a_write_that_fails_keeps_the_earlier_models(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    made = report("fp32")
    write_repository(made, (1, 1, 4), repository, quietly)
    before = contents(repository)
    monkeypatch.setattr("zoo.export.triton.repository.PYTHON_MODEL", tmp_path / "missing.py")
    with pytest.raises(FileNotFoundError):
        write_repository(report("fp16"), (1, 1, 2), repository, quietly)
    assert contents(repository) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eln", "repository"]


def test_a_file_is_no_repository(bundle: Path) -> None:
    with pytest.raises(ExportError, match=r"config\.json is a file, expected a folder of models"):
        check_repository(bundle / "config.json", bundle)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("runs/eln-1/bundle", "eln-1"),
        ("runs/eln-1/bundle-gated", "eln-1-gated"),
        ("shipped", "shipped"),
        ("my model (2)", "my-model-2"),
        ("ä", "model"),
    ],
)
def test_models_are_called_after_the_run_or_the_bundle(tmp_path: Path, folder: str, name: str) -> None:
    assert model_name(tmp_path / folder) == name


@pytest.fixture
def thresholds(monkeypatch: pytest.MonkeyPatch, write_onnx: Any) -> None:
    """An exporter whose files tell bright from dark."""

    def write(_: object, metadata: Any, path: Path) -> OnnxFacts:
        write_onnx(path, metadata=metadata.model_dump_json())
        return OnnxFacts(18, "image", "mask")

    monkeypatch.setattr(pipeline, "export_onnx", write)


def export(bundle: Path, repository: Path, *options: str) -> Result:
    arguments = ["export", str(bundle), "--triton", str(repository), *options]
    return CliRunner().invoke(app, arguments)


@pytest.mark.usefixtures("thresholds")
def test_the_command_serves_what_it_made_with_its_batches(bundle: Path, tmp_path: Path) -> None:
    repository = tmp_path / "served"
    fast = ("--precision", "fp32", "--min-agreement", "0", "--json")
    result = export(bundle, repository, "--batch", "1,2,2", *fast)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["triton"] == ["eln_onnx", "eln_python"]
    assert config_of(repository / "eln_python").max_batch_size == 2
    assert sha256(repository / "eln_onnx" / "1" / "model.onnx") == sha256(bundle / "model.onnx")


@pytest.mark.usefixtures("thresholds")
def test_nothing_is_served_that_differs_from_the_model(bundle: Path, tmp_path: Path) -> None:
    result = export(bundle, tmp_path / "served", "--precision", "fp32", "--batch", "1,1,1")
    assert isinstance(result.exception, ParityError)
    assert not (tmp_path / "served").exists()


def test_a_repository_that_cannot_be_is_refused_before_anything_is_made(bundle: Path) -> None:
    (bundle / "taken").write_text("")
    for options, message in (
        ((), "taken is a file, expected a folder of models"),
        (("--precision", "auto"), "with --precision auto, expected the precision"),
    ):
        result = export(bundle, bundle / "taken", *options)
        assert isinstance(result.exception, ZooError)
        assert message in str(result.exception)
    assert not list(bundle.glob("*.onnx"))
