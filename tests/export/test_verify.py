from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from zoo.bundle.bundle import WEIGHTS_NAME
from zoo.bundle.manifest import sha256
from zoo.commands.export import export
from zoo.errors import BundleError, ZooError
from zoo.export.options import ExportOptions
from zoo.export.pipeline import export_bundle
from zoo.export.verify import verify_bundle

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(student_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "bundle"
    export_bundle(student_bundle, ExportOptions(precision=("fp32",), out=folder))
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "bundle")


def faults(folder: Path) -> dict[str, tuple[str, ...]]:
    return {finding.name: finding.faults for finding in verify_bundle(folder) if finding.faults}


def test_a_bundle_as_it_was_exported_has_no_faults(folder: Path) -> None:
    assert faults(folder) == {}
    assert {finding.name for finding in verify_bundle(folder)} >= {"model.onnx", WEIGHTS_NAME, "config.json"}


def test_a_changed_a_missing_and_an_added_file_are_named(folder: Path) -> None:
    card = folder / "README.md"
    text = card.read_text()
    card.write_text(text.swapcase())
    (folder / "model.onnx").unlink()
    (folder / "notes.txt").write_text("new")
    assert faults(folder) == {
        "README.md": ("its SHA-256 is not that of the manifest",),
        "model.onnx": ("missing",),
        "notes.txt": ("not in the manifest: added after the export",),
    }


def test_an_artifact_of_other_weights_is_found_though_its_hash_is_listed(folder: Path) -> None:
    weights = folder / WEIGHTS_NAME
    weights.write_bytes(weights.read_bytes() + b" ")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][WEIGHTS_NAME] = {"sha256": sha256(weights), "bytes": weights.stat().st_size}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert faults(folder) == {"model.onnx": (f"made from other weights than {WEIGHTS_NAME}",)}


def test_the_command_fails_with_the_names_of_what_is_wrong(folder: Path) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(export)
    result = CliRunner().invoke(app, [str(folder), "--verify"])
    assert result.exit_code == 0
    assert "model.onnx" in result.stdout
    (folder / "model.onnx").write_bytes(b"other")
    result = CliRunner().invoke(app, [str(folder), "--verify", "--json"])
    assert isinstance(result.exception, ZooError)
    assert "model.onnx; run zoo export again" in str(result.exception)
    (found,) = [entry for entry in json.loads(result.stdout) if entry["faults"]]
    assert found["name"] == "model.onnx"


def test_a_bundle_that_was_never_exported_has_nothing_to_verify(student_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"has no manifest\.json.*run zoo export"):
        verify_bundle(student_bundle)
