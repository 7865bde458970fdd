from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import typer
from typer.testing import CliRunner

from zoo.bundle.bundle import MODEL_FILES, load_config
from zoo.bundle.manifest import MANIFEST_NAME, read_manifest, sha256
from zoo.commands.export import export
from zoo.errors import BundleError, ExportError, InvalidImageError, ParityError, ZooError
from zoo.export import graph, pipeline
from zoo.export.compose import copy_bundle
from zoo.export.manifest import update_manifest
from zoo.export.options import ExportOptions
from zoo.export.pipeline import export_bundle
from zoo.export.to_onnx import OnnxFacts
from zoo.export.to_tensorrt import Target, build_engine, load_builder, make_profile, plan_engine
from zoo.export.verify import verify_bundle
from zoo.predictors.artifact import info_path, read_engine_info
from zoo.predictors.load import load_predictor
from zoo.predictors.runtimes.trt_api import installed_flavors
from zoo.preprocess import normalize
from zoo.registry.checks import read_metadata

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

needs_rtx = pytest.mark.skipif("rtx" not in installed_flavors(), reason="tensorrt_rtx is not here")

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(export)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def exported(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("exported") / "bundle"
    engine = ["--trt"] if "rtx" in installed_flavors() else []
    # random weights: so many near ties that fp16 would miss its gate
    return folder, run(tiny_bundle, "--onnx", *engine, "--min-agreement", 0.99, "--out", folder, "--json")


@pytest.fixture
def broken_exporter(monkeypatch: pytest.MonkeyPatch, write_onnx: Any) -> None:
    """An exporter whose files are valid and tell nothing but bright from dark."""

    def export_broken(_: object, metadata: Any, path: Path) -> OnnxFacts:
        write_onnx(path, metadata=metadata.model_dump_json())
        return OnnxFacts(18, "image", "mask")

    monkeypatch.setattr(pipeline, "export_onnx", export_broken)


@pytest.mark.slow
def test_a_bundle_is_exported_in_both_precisions(exported: tuple[Path, Result]) -> None:
    folder, result = exported
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [artifact["name"] for artifact in report["artifacts"]][:2] == ["model.onnx", "model.fp16.onnx"]
    for artifact in report["artifacts"][:2]:
        assert len(artifact["parity"]["differences"]) == 5
        assert artifact["bytes"] == (folder / artifact["name"]).stat().st_size
    assert {path.name for path in folder.iterdir() if path.name.startswith(".")} == set()
    assert load_predictor(folder, backend="ort").classes == load_config(folder).classes


@pytest.mark.slow
@needs_rtx
def test_an_engine_is_built_beside_its_facts(exported: tuple[Path, Result]) -> None:
    folder, result = exported
    (engine,) = folder.glob("engines/*.engine")
    assert engine.name.startswith("model.fp16.rtx")
    assert engine.name.endswith(".sm86-89-120.engine")
    info = read_engine_info(engine)
    assert info.onnx_sha256 == sha256(folder / "model.fp16.onnx")
    assert info.bytes == engine.stat().st_size
    assert f"engines/{info_path(engine).name}" in json.loads(result.stdout)["files"]


@pytest.mark.slow
def test_the_manifest_knows_every_file_and_keeps_earlier_artifacts(
    exported: tuple[Path, Result], tmp_path: Path
) -> None:
    folder = shutil.copytree(exported[0], tmp_path / "bundle")
    first = read_manifest(folder)
    assert set(first.files) >= {
        "config.json",
        "model.safetensors",
        "README.md",
        "model.onnx",
        "model.fp16.onnx",
    }
    for name, entry in first.files.items():
        assert (sha256(folder / name), (folder / name).stat().st_size) == (entry.sha256, entry.bytes)
    entry = first.artifacts["model.onnx"]
    assert entry["input"] == "image uint8(b, h, w, 3)"
    assert entry["versions"]["torch"]
    assert entry["parity"]["agreement"] >= 0.9999
    export_bundle(folder, ExportOptions(precision=("fp32",), output="mask+confidence"))
    second = read_manifest(folder)
    assert second.artifacts["model.fp16.onnx"] == first.artifacts["model.fp16.onnx"]
    assert second.artifacts["model.onnx"]["metadata"]["output"] == "mask+confidence"


@pytest.mark.slow
def test_a_file_knows_the_smallest_image_below_which_onnx_runtime_would_end_the_process(
    make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle", encoder="ese_vovnet19b_dw", output_stride=32)
    expected = load_predictor(bundle).limits
    assert min(expected.low[1:]) > 1
    report = run(bundle, "--onnx", "--precision", "fp32", "--min-agreement", 0.99)
    assert report.exit_code == 0, report.output
    file = load_predictor(bundle / "model.onnx", backend="ort")
    assert file.limits == expected
    with pytest.raises(InvalidImageError, match="expected 2"):
        file.run(np.zeros((1, 20, 20, 3), np.uint8))


@pytest.mark.slow
def test_a_wrong_mean_is_caught(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(images: Any, preprocessing: Any) -> Any:
        return normalize(images, preprocessing.model_copy(update={"mean": (0.5, 0.5, 0.5)}))

    monkeypatch.setattr(graph, "normalize", shifted)
    with pytest.raises(ParityError, match=r"(?s)model\.onnx differs.*FAILED"):
        export_bundle(bundle_copy, ExportOptions(precision=("fp32",)))
    assert not list(bundle_copy.glob("*.onnx"))


@pytest.mark.slow
def test_the_layer_that_departs_is_named(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(images: Any, preprocessing: Any) -> Any:
        return normalize(images, preprocessing.model_copy(update={"mean": (0.5, 0.5, 0.5)}))

    monkeypatch.setattr(graph, "normalize", shifted)
    with pytest.raises(ParityError, match=r"the first layer that differs is normalization \(.*Sub"):
        export_bundle(bundle_copy, ExportOptions(precision=("fp32",)))


@pytest.mark.slow
def test_int8_is_made_in_two_files_with_its_calibration_in_the_manifest(
    student_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    fast = ("--calibration", "minmax", "--calibration-images", 4, "--min-agreement", 0.9, "--max-drop", 1)
    result = run(student_bundle, "--precision", "int8", "--out", folder, "--json", *fast)
    assert result.exit_code == 0, result.output
    artifacts = json.loads(result.stdout)["artifacts"]
    assert [artifact["name"] for artifact in artifacts] == ["model.int8.onnx", "model.int8.trt.onnx"]
    for artifact in artifacts:
        assert artifact["parity"]["accuracy"]["images"] == 96
        calibration = read_manifest(folder).artifacts[artifact["name"]]["calibration"]
        assert len(calibration["sha256"]) == 4
        assert calibration["method"] == "minmax"
        assert calibration["images"] == "4 of 450 unlabeled images of shapes"


@pytest.mark.slow
def test_layers_stay_in_fp32_until_int8_passes(student_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    options = {
        "precision": ("int8",),
        "calibration": "minmax",
        "calibration_images": 4,
        "out": folder,
        "max_drop": 1,
    }
    with pytest.raises(ParityError) as without:
        export_bundle(student_bundle, ExportOptions(**options, min_agreement=0.99))
    assert "near ties" in str(without.value)
    assert not list(folder.glob("*.onnx"))
    said: list[str] = []
    try:
        export_bundle(
            student_bundle, ExportOptions(**options, min_agreement=0.99, auto_exclude=True), said.append
        )
    except ParityError:
        assert not (folder / "model.int8.onnx").exists()
    else:
        assert read_manifest(folder).artifacts["model.int8.onnx"]["calibration"]["excluded"]
    keeping = [line for line in said if ": keeping " in line]
    assert "keeping 1 layers in fp32: " in keeping[0]
    assert "keeping 2 layers in fp32: " in keeping[1]


@pytest.mark.usefixtures("broken_exporter")
def test_an_artifact_that_differs_leaves_nothing_and_fails_the_command(bundle_copy: Path) -> None:
    (bundle_copy / "model.onnx").write_bytes(b"of an earlier export")
    result = run(bundle_copy, "--onnx", "--trt") if "rtx" in installed_flavors() else run(bundle_copy)
    assert result.exit_code == 1
    assert isinstance(result.exception, ParityError)
    assert str(result.exception).startswith("model.onnx, model.fp16.onnx differs from the eager model")
    assert "model.fp16.onnx  2 of 4x64x64" in str(result.exception)
    assert not list(bundle_copy.rglob("*.onnx"))
    assert not list(bundle_copy.rglob("*.tmp"))
    assert not (bundle_copy / "engines").exists()
    assert read_manifest(bundle_copy).artifacts == {}


@pytest.mark.usefixtures("broken_exporter")
def test_the_gate_can_be_set(bundle_copy: Path) -> None:
    result = run(bundle_copy, "--precision", "fp32", "--min-agreement", "0", "--batch", "1,1,2")
    assert result.exit_code == 0, result.output
    assert "model.onnx" in result.stdout
    assert ">= 0" in result.stdout
    assert "folded 42 BatchNorms" in result.stderr
    assert (bundle_copy / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int4"], "--precision int4 cannot be exported, expected some of fp32"),
        (["--batch", "2,1,4"], "--batch 2,1,4 is not MIN,OPT,MAX"),
        (["--imgsz", "16"], "--imgsz 16,16 is too small, expected at least 32"),
        (["--sm", "86"], "--sm 86 is for engines, expected --trt"),
        (["--min-agreement", "2"], "--min-agreement 2 is not a share of pixels"),
        (["--max-drop", "5"], "--max-drop 5 is not a change of mIoU"),
        (["--auto-exclude"], "--calibration-data and --auto-exclude are for int8"),
        (["--calibration-data", "x"], "--calibration-data and --auto-exclude are for int8"),
    ],
)
def test_options_that_cannot_be_are_named(tiny_bundle: Path, arguments: list[str], message: str) -> None:
    result = run(tiny_bundle, *arguments)
    assert result.exit_code == 1
    assert isinstance(result.exception, ExportError)
    assert message in str(result.exception)


@needs_rtx
def test_an_unknown_capability_is_refused_before_anything_is_made(bundle_copy: Path) -> None:
    with pytest.raises(ExportError, match="--sm 90 is not supported"):
        export_bundle(bundle_copy, ExportOptions(trt=True, sm=(86, 90)))
    assert not list(bundle_copy.glob("*.onnx"))


@needs_rtx
@pytest.mark.slow
def test_what_was_made_before_an_engine_is_refused_is_in_the_manifest(bundle_copy: Path) -> None:
    # SM 75 has no bf16; the network has HardSwish, which TensorRT takes in bf16 as two operators only
    with pytest.raises(ExportError, match=r"refused model\.bf16\.onnx .* HW-specific datatypes: b16"):
        export_bundle(
            bundle_copy,
            ExportOptions(precision=("bf16",), trt=True, sm=(75,), min_agreement=0.0, max_drop=1),
        )
    path = bundle_copy / "model.bf16.onnx"
    assert [*read_manifest(bundle_copy).artifacts] == [path.name]
    assert not any(finding.faults for finding in verify_bundle(bundle_copy))
    rtx, metadata = load_builder((86,)), read_metadata(onnx.load(path), path)
    planned = plan_engine(rtx, path, metadata, Target(sm=(86,)), make_profile((64, 64), (1, 1, 1)))
    assert build_engine(rtx, path, planned)[1].bytes > 1000


@pytest.mark.parametrize("arguments", [["--batch", "1,4"], ["--batch", "a,b,c"], ["--trt", "--sm", "sm86"]])
def test_numbers_that_are_none_are_a_mistake_of_usage(tiny_bundle: Path, arguments: list[str]) -> None:
    assert run(tiny_bundle, *arguments).exit_code == 2


def test_an_artifact_cannot_be_exported(write_onnx: Any, tmp_path: Path) -> None:
    result = run(write_onnx(tmp_path / "model.onnx"))
    assert isinstance(result.exception, BundleError)
    assert "is an artifact, expected a run or bundle folder" in str(result.exception)


def test_a_copy_holds_the_model_and_not_its_artifacts(bundle_copy: Path, tmp_path: Path) -> None:
    (bundle_copy / "model.onnx").write_bytes(b"artifact")
    copy = copy_bundle(bundle_copy, tmp_path / "a" / "copy")
    assert {path.name for path in copy.iterdir()} == set(MODEL_FILES)
    assert copy_bundle(bundle_copy, bundle_copy) == bundle_copy


def test_a_folder_with_other_contents_is_not_written_to(bundle_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ExportError, match="exists and is not a bundle"):
        copy_bundle(bundle_copy, tmp_path / "mine")


def test_a_copy_replaces_its_own_files_but_no_edited_one(bundle_copy: Path, tmp_path: Path) -> None:
    copy = copy_bundle(bundle_copy, tmp_path / "copy")
    update_manifest(copy, {})
    assert copy_bundle(bundle_copy, copy) == copy
    (copy / "README.md").write_text("mine")
    with pytest.raises(ZooError, match=r"1 file in .*copy would be overwritten, .* \(README\.md\)"):
        copy_bundle(bundle_copy, copy)
    assert (copy / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["Segformer"]}, "expected a bundle in --out"),
        ({"recipe": {"seed": 1}}, "has the bundle of another run, expected one of the run of"),
    ],
)
def test_another_model_is_not_replaced(
    bundle_copy: Path, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    other = copy_bundle(bundle_copy, tmp_path / "other")
    own = json.loads((other / "config.json").read_bytes()) if "recipe" in config else {}
    (other / "config.json").write_text(json.dumps(own | config))
    before = {path: path.read_bytes() for path in other.iterdir()}
    with pytest.raises(ExportError, match=message):
        copy_bundle(bundle_copy, other)
    assert {path: path.read_bytes() for path in other.iterdir()} == before


def test_a_manifest_forgets_files_that_are_gone(bundle_copy: Path) -> None:
    (bundle_copy / "model.onnx").write_bytes(b"artifact")
    update_manifest(bundle_copy, {"model.onnx": {"precision": "fp32"}})
    assert read_manifest(bundle_copy).artifacts == {"model.onnx": {"precision": "fp32"}}
    (bundle_copy / "model.onnx").unlink()
    update_manifest(bundle_copy, {})
    assert read_manifest(bundle_copy).artifacts == {}
    assert "model.onnx" not in read_manifest(bundle_copy).files


def test_a_manifest_that_is_none_is_refused(bundle_copy: Path) -> None:
    (bundle_copy / MANIFEST_NAME).write_text("[]")
    with pytest.raises(BundleError, match=r"is not a manifest .*: delete it and export again"):
        read_manifest(bundle_copy)
