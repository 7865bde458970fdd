"""`zoo export --branch`, `--fuse-weight` and `--gate`, with an exporter that takes no time."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from zoo.bundle.bundle import load_config
from zoo.cli import app
from zoo.errors import BundleError, ExportError, ParityError, ZooError
from zoo.export import pipeline
from zoo.export.graph.to_onnx import OnnxFacts
from zoo.predictors.load import load_predictor

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    Export = Callable[..., Result]


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_onnx: Any) -> Export:
    """Return a function that runs `zoo export` in an empty folder; its files tell bright from dark."""

    def write(_: object, metadata: Any, path: Path) -> OnnxFacts:
        write_onnx(path, metadata=metadata.model_dump_json())
        return OnnxFacts(18, "image", "mask")

    monkeypatch.setattr(pipeline, "export_onnx", write)
    monkeypatch.chdir(tmp_path)
    fast = ("--precision", "fp32", "--min-agreement", "0")
    return lambda *arguments: CliRunner().invoke(app, ["export", *map(str, arguments), *fast])


@pytest.fixture
def run(ensemble_bundle: Path, tmp_path: Path) -> Path:
    """Return the relative path of a run of rrn."""
    shutil.copytree(ensemble_bundle, tmp_path / "runs" / "rrn" / "bundle")
    (tmp_path / "runs" / "rrn" / "recipe.json").write_text("{}")
    return Path("runs/rrn")


def test_a_branch_becomes_a_bundle_beside_the_runs_with_its_artifacts(export: Export, run: Path) -> None:
    result = export(run, "--branch", 1, "--json")
    assert result.exit_code == 0, result.output
    made = run / "bundle-branch_1"
    assert json.loads(result.stdout)["bundle"] == str(made)
    assert {path.name for path in made.iterdir()} == {
        "README.md",
        "config.json",
        "manifest.json",
        "model.onnx",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert load_config(made).deployable.kind == "student"
    assert not (run / "bundle" / "model.onnx").exists()
    assert f"composed {made} from {run / 'bundle'}" in result.stderr


def test_both_branches_are_the_bundle_itself(export: Export, run: Path) -> None:
    assert export(run, "--branch", "both").exit_code == 0
    assert [path.name for path in run.iterdir() if path.is_dir()] == ["bundle"]
    assert (run / "bundle" / "model.onnx").is_file()


def test_all_options_end_in_the_configuration(export: Export, run: Path, classifier_bundle: Path) -> None:
    options = (
        "--fuse-weight",
        0.3,
        "--gate",
        classifier_bundle,
        "--gate-threshold",
        0.4,
        "--background",
        "disc",
    )
    result = export(run, *options, "--out", "shipped")
    assert result.exit_code == 0, result.output
    assert (Path("shipped") / "model.onnx").is_file()
    gate = load_config(Path("shipped")).deployable
    assert gate.kind == "gated"
    assert (gate.threshold, gate.background) == (0.4, 1)
    assert gate.segmentation.kind == "ensemble"
    assert gate.segmentation.weight_1 == 0.3
    assert "gate at 0.4: it never removes disc" in result.stderr


def test_a_gate_without_a_background_says_so(export: Export, run: Path, classifier_bundle: Path) -> None:
    result = export(run, "--gate", classifier_bundle, "--background", "none")
    assert result.exit_code == 0, result.output
    assert load_config(run / "bundle-gated").deployable.background is None  # type: ignore[union-attr]
    assert "it may remove any class; --background NAME keeps one" in result.stderr


def test_a_file_is_no_gate(export: Export, run: Path, write_onnx: Any, tmp_path: Path) -> None:
    result = export(run, "--gate", write_onnx(tmp_path / "classifier.onnx"))
    assert isinstance(result.exception, BundleError)
    assert "is an artifact, expected a run or bundle folder" in str(result.exception)


def test_a_bad_option_leaves_nothing_behind(export: Export, run: Path, classifier_bundle: Path) -> None:
    for options, message in (
        (("--gate", classifier_bundle, "--gate-threshold", 1), "--gate-threshold 1 is not a probability"),
        (("--gate", classifier_bundle, "--background", "sky"), "--background sky is not a class"),
        (("--branch", 1, "--imgsz", 16), "--imgsz 16,16 is too small"),
    ):
        result = export(run, *options)
        assert isinstance(result.exception, ExportError)
        assert message in str(result.exception)
    assert [path.name for path in run.iterdir() if path.is_dir()] == ["bundle"]
    assert export(run, "--branch", 3).exit_code == 2


def test_another_size_is_another_bundle_and_all_its_backends_use_it(export: Export, run: Path) -> None:
    result = export(run, "--imgsz", "64,96")
    assert result.exit_code == 0, result.output
    sized = run / "bundle-64x96"
    assert not list((run / "bundle").glob("*.onnx"))
    assert load_config(run / "bundle").preprocessing.imgsz == (64, 64)
    for backend in ("eager", "ort"):
        assert load_predictor(sized, backend=backend).preprocessing.imgsz == (64, 96)
    (run / "bundle" / "model.onnx").write_bytes((sized / "model.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"was exported for imgsz \(64, 96\), its bundle has"):
        load_predictor(run / "bundle", backend="ort")


def test_a_failed_export_keeps_the_file_that_passed_with_the_same_weights(export: Export, run: Path) -> None:
    strict = ["export", str(run), "--precision", "fp32"]
    assert export(run).exit_code == 0
    onnx, manifest = run / "bundle" / "model.onnx", run / "bundle" / "manifest.json"
    before, entry = onnx.read_bytes(), json.loads(manifest.read_bytes())["artifacts"]
    result = CliRunner().invoke(app, strict)
    assert isinstance(result.exception, ParityError)
    assert "model.onnx: the file of an earlier export, which passed, is kept" in " ".join(
        result.stderr.split()
    )
    assert onnx.read_bytes() == before
    assert json.loads(manifest.read_bytes())["artifacts"] == entry
    weights = run / "bundle" / "model.safetensors"
    with safe_open(weights, "pt") as file:
        state, metadata = {name: 1.5 * file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(state, weights, metadata)
    assert isinstance(CliRunner().invoke(app, strict).exception, ParityError)
    assert not onnx.exists()


def test_sigterm_ends_an_export_without_temporary_files(
    export: Export, monkeypatch: pytest.MonkeyPatch, run: Path
) -> None:
    def terminated(_: object, __: Any, path: Path) -> OnnxFacts:
        path.write_bytes(b"half a file")
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError

    monkeypatch.setattr(pipeline, "export_onnx", terminated)
    assert export(run).exit_code == 128 + signal.SIGTERM
    assert not list((run / "bundle").glob(".*.tmp"))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_export_removes_what_a_killed_one_has_left(export: Export, run: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    names = [f".model.onnx.{ended.pid}.tmp", f".model.fp16.onnx.{os.getppid()}.tmp", ".other.tmp"]
    left = [run / "bundle" / name for name in names]
    for path in left:
        path.write_bytes(b"half a file")
    assert export(run).exit_code == 0
    assert [path.exists() for path in left] == [False, True, True]


def test_a_bundle_that_cannot_be_written_to_is_said_before_anything_is_exported(
    export: Export, monkeypatch: pytest.MonkeyPatch, run: Path
) -> None:
    def denied(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("zoo.bundle.bundle.TemporaryFile", denied)
    error = export(run).exception
    assert isinstance(error, ZooError)
    assert str(error).startswith(f"{run}/bundle cannot be written (Permission denied)")
    assert not list((run / "bundle").glob("*.onnx"))
